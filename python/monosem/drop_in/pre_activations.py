"""Pre-activations of tokens as a tensor [..., d_sae] that is computed only as far as it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from monosem import ops
from monosem.drop_in.activations import is_last, no_activations, widened
from monosem.drop_in.lazy import LazyTensor
from monosem.ops import SparseCode
from monosem.ops.precision import as_given


@dataclass(frozen=True)
class Encoder:
    """``h = x·wᵀ + b`` of tokens, or ``ReLU(h)``.

    Attributes:
        x: [..., d_in].
        w: rows [d_sae, d_in].
        b: [d_sae].
        relu: whether negative pre-activations are 0.
        versions: how often the tensors had been written to when the encoder was made.
    """

    x: Tensor
    w: Tensor
    b: Tensor
    relu: bool = False
    versions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.versions:
            object.__setattr__(self, "versions", self._versions())

    def _versions(self) -> tuple[int, ...]:
        return tuple(0 if t.is_inference() else t._version for t in (self.x, self.w, self.b))

    def check_unchanged(self) -> None:
        """RuntimeError where pre-activations are read so late that they would be those of another step."""
        if self._versions() != self.versions:
            raise RuntimeError(
                "pre-activations: got weights or inputs that were changed in place, such as by an optimizer's step, "
                "before the pre-activations were read; wanted the values that encode() saw. Read them before, or keep "
                "a copy of them: h.clone()"
            )

    def detached(self) -> Encoder:
        return replace(self, x=self.x.detach(), w=self.w.detach(), b=self.b.detach())

    @as_given
    def product(self, w: Tensor, b: Tensor) -> Tensor:
        h = torch.nn.functional.linear(self.x, w, b)
        return h.relu() if self.relu else h

    def topk(self, k: int) -> SparseCode:
        return self.chosen_by(lambda x, w, b: ops.topk_encode(x, w, b, k))

    def above(self, threshold: Tensor | None = None) -> SparseCode:
        """The entries above a threshold per feature [d_sae], or a common one; None: above 0."""
        if threshold is not None:
            threshold = widened(threshold.detach()).expand(len(self.w)).contiguous()
        return self.chosen_by(lambda x, w, b: ops.threshold_encode(x, w, b, threshold))

    def chosen_by(self, choose: Callable[[Tensor, Tensor, Tensor], SparseCode]) -> SparseCode:
        """The entries that an operation chooses, given x [N, d_in], w and b in fp32 or float64.

        Values come in the dtype of x.
        """
        shape = self.x.shape[:-1]
        x = widened(self.x).reshape(-1, self.x.shape[-1])
        code = choose(x, widened(self.w).contiguous(), widened(self.b).contiguous())
        values, indices = code.values.to(self.x.dtype), code.indices
        if code.offsets is None:
            values, indices = (t.view(*shape, t.shape[-1]) for t in (values, indices))
        return replace(code, values=values, indices=indices, shape=shape)

    def gated(self, r_mag: Tensor, b_mag: Tensor) -> tuple[SparseCode, SparseCode]:
        """``(ReLU(h), ReLU(exp(r_mag)·x·wᵀ + b_mag) where h > 0)``, h = x·wᵀ + b, both at the entries of h > 0."""
        b = self.b.detach()  # it has no part in the magnitudes: what rounding left of its gradient, Adam would enlarge
        above = replace(self, b=b).above()
        i = above.indices.long()
        magnitudes = (r_mag.exp()[i] * (above.values - b[i]) + b_mag[i]).relu()
        return replace(above, values=above.values + (self.b - b)[i]), replace(above, values=magnitudes)


class PreActivations(LazyTensor):
    """What a dictionary's encoder gives before the choice of features, [..., d_sae].

    Kept lazy: its columns of chosen features (``torch.where(mask, h, -inf)`` with a mask of features) and their
    ``topk``, the ``topk`` of a ReLU's, and ``zeros_like``. All else sees the dense tensor.
    """

    encoder: Encoder
    columns: Tensor | None  # features outside of them are −∞

    @staticmethod
    def of(encoder: Encoder, columns: Tensor | None = None) -> PreActivations:
        needs = torch.is_grad_enabled() and any(t.requires_grad for t in (encoder.x, encoder.w, encoder.b))
        if needs:
            made = _Wrap.apply(encoder.x, encoder.w, encoder.b, encoder, columns)
            made._dense = None
        else:  # as they are computed later, where gradients may be taken
            encoder = encoder.detached()
            made = _wrapped(encoder)
        made.encoder, made.columns = encoder, columns
        return made

    def make_dense(self) -> Tensor:
        e = self.encoder
        e.check_unchanged()
        if self.columns is None:
            return e.product(e.w, e.b)
        chosen = e.product(e.w[self.columns], e.b[self.columns])
        return chosen.new_full(self.shape, -torch.inf).index_copy(-1, self.columns, chosen)


class _Wrap(torch.autograd.Function):
    """Pre-activations as the output of an operation, for functions that do not ask for overrides."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, b: Tensor, encoder: Encoder, columns: Tensor | None) -> Tensor:
        ctx.encoder, ctx.columns = encoder, columns
        return _wrapped(encoder)

    @staticmethod
    def backward(ctx, grad: Tensor):
        e = ctx.encoder
        e.check_unchanged()
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (e.x, e.w, e.b)]
            lazy = _wrapped(Encoder(*inputs, relu=e.relu))
            lazy.columns = ctx.columns
            return *torch.autograd.grad(lazy.make_dense(), inputs, grad), None, None


def _wrapped(encoder: Encoder) -> PreActivations:
    made = LazyTensor.wrapper(PreActivations, (*encoder.x.shape[:-1], len(encoder.w)), encoder.x)
    assert isinstance(made, PreActivations)
    made.encoder, made.columns = encoder, None
    return made


@PreActivations.handles(torch.relu, Tensor.relu, torch.nn.functional.relu)
def _relu(h: PreActivations, inplace: bool = False) -> Any:
    if inplace or h.columns is not None:
        return NotImplemented
    return PreActivations.of(replace(h.encoder, relu=True))


@PreActivations.handles(Tensor.detach, torch.detach)
def _detach(h: PreActivations) -> PreActivations:
    return PreActivations.of(h.encoder.detached(), h.columns)


@PreActivations.handles(torch.where)
def _where(mask: Any, h: Any = None, other: Any = None) -> Any:
    """The columns of a mask of features, −∞ elsewhere."""
    if not isinstance(h, PreActivations) or h.columns is not None or isinstance(other, Tensor) or other != -torch.inf:
        return NotImplemented
    if mask.dtype != torch.bool or mask.numel() != h.shape[-1] or mask.shape[-1] != h.shape[-1] or mask.dim() > h.dim():
        return NotImplemented
    return PreActivations.of(h.encoder, mask.reshape(-1).nonzero()[:, 0])


@PreActivations.handles(Tensor.topk, torch.topk)
def _topk(h: PreActivations, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The largest of each token, in order, with the lowest of equal features first."""
    k, e = int(k), h.encoder
    if not is_last(h, dim) or not largest or h.dim() < 2:
        return NotImplemented
    e.check_unchanged()
    if h.columns is None:
        if not e.relu:  # ``ops.topk_encode`` gives 0 for what is negative
            return NotImplemented
        code = e.topk(k)
        values, indices = code.values, code.indices.long()
    else:
        if k > len(h.columns):
            return NotImplemented
        values, places = e.product(e.w[h.columns], e.b[h.columns]).topk(k)
        indices = h.columns[places]
    indices.is_distinct = True
    return torch.return_types.topk((values, indices))


@PreActivations.handles(torch.zeros_like)
def _zeros_like(h: PreActivations) -> Any:
    return no_activations(h.shape, h.encoder.x)
