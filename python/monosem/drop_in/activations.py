"""Feature activations of tokens as a tensor [..., d_sae] that holds only the entries that are not 0."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from monosem import ops
from monosem.drop_in.lazy import LazyTensor
from monosem.ops import SparseCode


class _Wrap(torch.autograd.Function):
    """Activations as the output of an operation on their values, for functions that do not ask for overrides."""

    @staticmethod
    def forward(ctx, values: Tensor, code: SparseCode) -> Tensor:
        ctx.save_for_backward(code.row_ids(), code.csr()[1])
        ctx.shape = values.shape
        return _wrapped(code)

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, indices = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        return flat[rows, indices.long()].view(ctx.shape), None


def _wrapped(code: SparseCode) -> Activations:
    made = LazyTensor.wrapper(Activations, (*code.shape, code.d_sae), code.values)
    assert isinstance(made, Activations)
    made._code = code
    return made


class Activations(LazyTensor):
    """A code as a tensor: a dictionary's activations [..., d_sae], zero but for the entries of a ``SparseCode``.

    Elementwise functions that keep 0 (``bool``, ``abs``, ``> 0``, products with a number or with a value per feature),
    sums and means, the product with decoder weights, and selection by such a mask use the entries only. All else sees
    the dense tensor (``LazyTensor``). What is not an entry stays 0 in products with infinity too. ``detach`` and
    ``clone`` are copies.
    """

    _code: SparseCode

    @staticmethod
    def of(code: SparseCode) -> Activations:
        """Activations with the entries of a code. Differentiable in its values."""
        if code.values.requires_grad and torch.is_grad_enabled():
            made = _Wrap.apply(code.values, code)
            assert isinstance(made, Activations)
            made._code, made._dense = code, None
            return made
        return _wrapped(code)

    @property
    def code(self) -> SparseCode:
        """The entries; not defined once the dense tensor was made."""
        if not self.is_lazy:
            raise RuntimeError("code: these activations were made dense; wanted activations that are still sparse")
        return self._code

    def with_values(self, values: Tensor) -> Activations:
        """Other values at the same entries."""
        return Activations.of(replace(self.code, values=values))

    def make_dense(self) -> Tensor:
        if self._code.values.dtype == torch.bool:
            return replace(self._code, values=self._code.values.to(torch.uint8)).to_dense().bool()
        return self._code.to_dense()


def _elementwise(func: Callable) -> Callable:
    def handler(f: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(f, Activations) or not all(_is_number(a) for a in (*args, *kwargs.values())):
            return NotImplemented
        values = f.code.values
        found = func(values, *args, **kwargs)
        if found is values:  # such as ``float()`` of floats
            return f
        zero = func(torch.zeros((), dtype=values.dtype, device=values.device), *args, **kwargs)
        moved = found.device != values.device
        return NotImplemented if moved or zero.any() else f.with_values(found)

    return handler


def _is_number(value: Any) -> bool:
    return not isinstance(value, Tensor) or (value.dim() == 0 and not isinstance(value, LazyTensor))


_KEEPS_ZERO = (
    *(Tensor.bool, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.to),
    *(Tensor.detach, Tensor.clone, Tensor.contiguous, torch.clone, torch.detach),
    *(Tensor.abs, torch.abs, Tensor.relu, torch.relu, torch.nn.functional.relu, Tensor.sign, torch.sign),
    *(Tensor.pow, torch.pow, Tensor.__pow__, Tensor.square, torch.square, Tensor.sqrt, torch.sqrt, Tensor.__neg__),
    *(Tensor.gt, torch.gt, Tensor.__gt__, Tensor.ne, torch.ne, Tensor.__ne__, Tensor.lt, torch.lt, Tensor.__lt__),
    *(Tensor.div, torch.div, Tensor.__truediv__, Tensor.clamp, torch.clamp),
)
for _function in _KEEPS_ZERO:
    Activations.handles(_function)(_elementwise(_function))


@Activations.handles(Tensor.mul, torch.mul, Tensor.__mul__, Tensor.__rmul__)
def _mul(a: Any, b: Any, **kwargs: Any) -> Any:
    """A product with a number, with a value per feature [d_sae], or with activations at the same entries."""
    f, by = (a, b) if isinstance(a, Activations) and a.is_lazy else (b, a)
    code = f.code
    if kwargs or (isinstance(by, LazyTensor) and not by.is_lazy):
        return NotImplemented
    if isinstance(by, Activations):
        return f.with_values(code.values * by.code.values) if same_entries(code, by.code) else NotImplemented
    if isinstance(by, LazyTensor):
        return NotImplemented
    if _is_number(by):
        return f.with_values(code.values * by)
    if by.shape != (code.d_sae,):
        return NotImplemented
    return f.with_values(code.values * by[code.indices.long()])


def same_entries(a: SparseCode, b: SparseCode) -> bool:
    return a.indices is b.indices and a.offsets is b.offsets and a.shape == b.shape


@Activations.handles(Tensor.matmul, torch.matmul, Tensor.__matmul__, Tensor.mm, torch.mm)
def _matmul(f: Any, w: Any) -> Any:
    """``f @ W`` with W [d_sae, d]: the sum of the active rows."""
    if not isinstance(f, Activations) or isinstance(w, LazyTensor) or w.dim() != 2 or w.shape[0] != f.code.d_sae:
        return NotImplemented
    if f.code.values.dtype != w.dtype:
        return NotImplemented
    return decoded(f.code, w, None)


@Activations.handles(torch.nn.functional.linear)
def _linear(f: Any, weight: Any, bias: Any = None) -> Any:
    """``f @ weightᵀ + bias``, with weight [d, d_sae]."""
    if not isinstance(f, Activations) or weight.shape[1] != f.code.d_sae or f.code.values.dtype != weight.dtype:
        return NotImplemented
    return decoded(f.code, weight.mT, bias)


def decoded(code: SparseCode, w: Tensor, b: Tensor | None) -> Tensor:
    """``ops.decode`` in fp32, in the dtype of w: kernels of sums read no other on every device."""
    wide, b = w.float().contiguous(), w.new_zeros(w.shape[1]) if b is None else b
    return ops.decode(replace(code, values=code.values.float()), wide, b.float()).to(w.dtype)


@Activations.handles(Tensor.sum, torch.sum)
def _sum(f: Activations, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Over everything, over the features of each token, or over all tokens."""
    code, tokens = f.code, tuple(range(f.dim() - 1))
    values = code.values.to(dtype or (torch.int64 if code.values.dtype == torch.bool else code.values.dtype))
    dims = None if dim is None else tuple(sorted(d % f.dim() for d in ((dim,) if isinstance(dim, int) else dim)))
    if not dims or len(dims) == f.dim():
        return values.sum() if not keepdim else NotImplemented
    if dims == (f.dim() - 1,):
        rows = values.new_zeros(code.n_tokens).index_add(0, code.row_ids(), values.reshape(-1))
        return rows.view(*code.shape, *([1] if keepdim else []))
    if dims == tokens and tokens:
        features = values.new_zeros(code.d_sae).index_add(0, code.csr()[1].long(), values.reshape(-1))
        return features.view(*([1] * len(tokens) if keepdim else []), code.d_sae)
    return NotImplemented


@Activations.handles(Tensor.mean, torch.mean)
def _mean(f: Activations, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    total = _sum(f, dim, keepdim, dtype=dtype)
    return total if total is NotImplemented else total / (f.numel() // max(1, total.numel()))


@Activations.handles(Tensor.norm, torch.norm)
def _norm(f: Activations, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """The p-norm, for p > 0."""
    p = 2 if p == "fro" else p
    if not isinstance(p, int | float) or not 0 < p < float("inf"):
        return NotImplemented
    magnitudes = f.with_values(f.code.values.abs())
    total = _sum(magnitudes if p == 1 else magnitudes.with_values(magnitudes.code.values**p), dim, keepdim, dtype=dtype)
    return total if total is NotImplemented or p == 1 else total ** (1 / p)


@Activations.handles(Tensor.any, torch.any)
def _any(f: Activations, *dim: Any, **kwargs: Any) -> Any:
    return NotImplemented if dim or kwargs else f.code.values.any()


@Activations.handles(Tensor.__getitem__)
def _select(f: Any, index: Any) -> Any:
    """``f[mask]`` with a mask made from these activations, or features one after another: ``f[:, a:b]``."""
    if not isinstance(f, Activations):
        return NotImplemented
    if isinstance(index, Activations) and index.is_lazy and index.dtype == torch.bool:
        ordered = f.code.offsets is not None  # as in the dense tensor
        return f.code.values[index.code.values] if ordered and same_entries(f.code, index.code) else NotImplemented
    everything = slice(None)
    if not isinstance(index, tuple) or len(index) != f.dim() or any(i != everything for i in index[:-1]):
        return NotImplemented
    last = index[-1]
    if not isinstance(last, slice) or last.step not in (None, 1):
        return NotImplemented
    first, end, _ = last.indices(f.shape[-1])
    return features_between(f, first, max(first, end))


@Activations.handles(Tensor.split, torch.split, Tensor.split_with_sizes, torch.split_with_sizes)
def _split(f: Activations, sizes: Any, dim: int = 0) -> Any:
    if not isinstance(sizes, list | tuple) or dim % f.dim() != f.dim() - 1 or sum(sizes) != f.shape[-1]:
        return NotImplemented
    ends = itertools.accumulate(sizes)
    return tuple(features_between(f, end - size, end) for size, end in zip(sizes, ends, strict=True))


def features_between(f: Activations, first: int, end: int) -> Activations:
    """The features first … end − 1. The entries of others stay, with the value 0, at the first of these."""
    code = f.code
    inside = (code.indices >= first) & (code.indices < end)
    values = torch.where(inside, code.values, 0)
    indices = torch.where(inside, code.indices - first, 0)
    return Activations.of(replace(code, values=values, indices=indices, d_sae=end - first))


@Activations.handles(torch.zeros_like)
def _zeros_like(f: Activations, **kwargs: Any) -> Any:
    return NotImplemented if kwargs else no_activations(f.shape, f.code.values)


@Activations.handles(Tensor.scatter_, Tensor.scatter, torch.scatter)
def _scatter(f: Activations, dim: int, index: Tensor, src: Tensor) -> Any:
    """Entries written into activations without any, at indices that ``PreActivations.topk`` chose.

    In place as well: the object that was written to has the entries too.
    """
    distinct = getattr(index, "is_distinct", False)  # of equal indices the last would be written
    if len(f.code.csr()[0]) or dim % f.dim() != f.dim() - 1 or not distinct or index.shape != src.shape:
        return NotImplemented
    f._code = SparseCode(src, index.int(), None, f.shape[-1], f.shape[:-1])
    return Activations.of(f._code)


def no_activations(shape: torch.Size, like: Tensor) -> Activations:
    values = like.new_zeros(*shape[:-1], 0)
    return Activations.of(SparseCode(values, values.int(), None, shape[-1], torch.Size(shape[:-1])))
