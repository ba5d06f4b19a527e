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


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which operations compute: float64 for float64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(t: Tensor) -> Tensor:
    return t.to(wide(t.dtype))


def _wrapped(code: SparseCode) -> Activations:
    made = LazyTensor.wrapper(Activations, (*code.shape, code.d_sae), code.values)
    assert isinstance(made, Activations)
    made._code = code
    return made


class Activations(LazyTensor):
    """A code as a tensor: a dictionary's activations [..., d_sae], zero but for the entries of a ``SparseCode``.

    Elementwise functions that keep 0 (``bool``, ``abs``, ``> 0``, products with a number or with a value per feature),
    sums and means, the product with decoder weights, and selection by such a mask use the entries only. All else sees
    the dense tensor (``LazyTensor``). What is not an entry stays 0 in products with tensors that hold infinity, too.
    ``detach`` and ``clone`` are copies; slices of features are views, as those of a dense tensor.
    """

    _code: SparseCode
    _whole: tuple[Activations, int, int] | None = None  # of a slice: the activations, its first feature and its end

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

    @property
    def is_lazy(self) -> bool:
        return super().is_lazy and (self._whole is None or self._whole[0].is_lazy)

    def with_values(self, values: Tensor) -> Activations:
        """Other values at the same entries."""
        return Activations.of(replace(self.code, values=values))

    def make_dense(self) -> Tensor:
        if self._whole is not None:
            whole, first, end = self._whole
            return whole.dense()[..., first:end]
        if self._code.values.dtype == torch.bool:
            return replace(self._code, values=self._code.values.to(torch.uint8)).to_dense().bool()
        return self._code.to_dense()


def _elementwise(func: Callable) -> Callable:
    def handler(f: Any, *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if not isinstance(f, Activations) or not all(_is_number(a) for a in given):
            return NotImplemented
        values = f.code.values
        found = func(values, *args, **kwargs)
        if found is values:  # such as ``float()`` of floats
            return f
        if found.device != values.device:
            return NotImplemented
        # On the host, where the answer is awaited without a GPU, unless the GPU has an argument.
        device = values.device if any(isinstance(a, Tensor) for a in given) else "cpu"
        zero = func(torch.zeros((), dtype=values.dtype, device=device), *args, **kwargs)
        return NotImplemented if zero.any() else f.with_values(found)

    return handler


def _is_number(value: Any) -> bool:
    """Whether it is one value for all elements, or no value (a dtype, the name of a mode)."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and not isinstance(value, LazyTensor)
    return not hasattr(value, "__array__") and not isinstance(value, list | tuple)


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
def _mul(a: Any, other: Any) -> Any:
    """A product with a number, with a value per feature [d_sae], or with activations at the same entries."""
    f, by = (a, other) if isinstance(a, Activations) and a.is_lazy else (other, a)
    code = f.code
    if isinstance(by, Activations) and by.is_lazy:
        return f.with_values(code.values * by.code.values) if same_entries(code, by.code) else NotImplemented
    if isinstance(by, LazyTensor):
        return NotImplemented
    if _is_number(by):
        poisons = not isinstance(by, Tensor) and by * 0 != 0  # infinity and NaN
        return NotImplemented if poisons else f.with_values(code.values * by)
    if not isinstance(by, Tensor) or by.shape != (code.d_sae,):
        return NotImplemented
    return f.with_values(code.values * by[code.indices.long()])


def same_entries(a: SparseCode, b: SparseCode) -> bool:
    return a.indices is b.indices and a.offsets is b.offsets and a.shape == b.shape


@Activations.handles(Tensor.matmul, torch.matmul, Tensor.__matmul__)
def _matmul(f: Any, other: Any) -> Any:
    """``f @ W`` with W [d_sae, d]: the sum of the active rows."""
    return _decoded(f, other, None)


@Activations.handles(Tensor.mm, torch.mm)
def _mm(f: Any, mat2: Any) -> Any:
    return _decoded(f, mat2, None) if f.dim() == 2 else NotImplemented


@Activations.handles(torch.nn.functional.linear)
def _linear(f: Any, weight: Any, bias: Any = None) -> Any:
    """``f @ weightᵀ + bias``, with weight [d, d_sae]."""
    return _decoded(f, weight.mT, bias) if weight.dim() == 2 else NotImplemented


def _decoded(f: Any, w: Any, b: Any) -> Any:
    if not isinstance(f, Activations) or isinstance(w, LazyTensor) or w.dim() != 2 or w.shape[0] != f.code.d_sae:
        return NotImplemented
    if f.code.values.dtype != w.dtype or not w.is_floating_point():
        return NotImplemented
    return decoded(f.code, w, b)


def decoded(code: SparseCode, w: Tensor, b: Tensor | None) -> Tensor:
    """``ops.decode`` in fp32 or float64, in the dtype of w: kernels of sums read no other on every device."""
    b = w.new_zeros(w.shape[1]) if b is None else b
    return ops.decode(replace(code, values=widened(code.values)), widened(w).contiguous(), widened(b)).to(w.dtype)


@Activations.handles(Tensor.sum, torch.sum)
def _sum(f: Activations, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    values = f.code.values
    is_fraction = values.is_floating_point() or values.is_complex()
    dtype = dtype or (values.dtype if is_fraction else torch.int64)
    total = _total(f, values.to(dtype), dim, keepdim)
    return total if total is NotImplemented else total.to(dtype)


@Activations.handles(Tensor.mean, torch.mean)
def _mean(f: Activations, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    dtype = dtype or f.dtype
    if not (dtype.is_floating_point or dtype.is_complex):  # an error of PyTorch's
        return NotImplemented
    total = _total(f, f.code.values.to(dtype), dim, keepdim)
    return total if total is NotImplemented else (total / (f.numel() // max(1, total.numel()))).to(dtype)


@Activations.handles(Tensor.norm, torch.norm)
def _norm(f: Activations, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: Any = None, dtype: Any = None):
    """The p-norm, for p > 0."""
    p, dtype = 2 if p == "fro" else p, dtype or f.dtype
    if not isinstance(p, int | float) or not 0 < p < float("inf") or out is not None or not dtype.is_floating_point:
        return NotImplemented
    total = _total(f, _power(_summed_as(f.code.values.to(dtype)).abs(), p), dim, keepdim)
    return total if total is NotImplemented else _power(total, 1 / p).to(dtype)


def _power(x: Tensor, p: float) -> Tensor:
    """``x ** p`` of x ≥ 0 with a gradient of 0 at 0, as PyTorch's norms have it."""
    return x if p == 1 else torch.where(x == 0, 0, torch.where(x == 0, 1, x) ** p)


def _total(f: Activations, values: Tensor, dim: Any, keepdim: bool) -> Any:
    """Sums of values at the entries of f."""
    code, values, tokens = f.code, _summed_as(values), tuple(range(f.dim() - 1))
    given = () if dim is None else tuple(dim) if isinstance(dim, list | tuple) else (dim,)
    if not all(isinstance(d, int) and -f.dim() <= d < f.dim() for d in given):
        return NotImplemented
    dims = tuple(sorted(d % f.dim() for d in given))
    if len(set(dims)) < len(dims):
        return NotImplemented
    if not dims or len(dims) == f.dim():
        return values.sum(dtype=values.dtype) if not keepdim else NotImplemented
    if dims == (f.dim() - 1,):
        rows = values.new_zeros(code.n_tokens).index_add(0, code.row_ids(), values.reshape(-1))
        return rows.view(*code.shape, *([1] if keepdim else []))
    if dims == tokens:
        features = values.new_zeros(code.d_sae).index_add(0, code.csr()[1].long(), values.reshape(-1))
        return features.view(*([1] * len(tokens) if keepdim else []), code.d_sae)
    return NotImplemented


def _summed_as(values: Tensor) -> Tensor:
    """Numbers of 16 bits in fp32, in which PyTorch adds them up."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


@Activations.handles(Tensor.any, torch.any)
def _any(f: Activations) -> Any:
    return f.code.values.any()


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
    return features_between(f, first, end) if first < end else NotImplemented


@Activations.handles(Tensor.split, torch.split, Tensor.split_with_sizes, torch.split_with_sizes)
def _split(f: Activations, sizes: Any, dim: int = 0) -> Any:
    if not isinstance(sizes, list | tuple) or not is_last(f, dim) or min(sizes, default=0) < 1:
        return NotImplemented
    ends = list(itertools.accumulate(sizes))
    if ends[-1] != f.shape[-1]:
        return NotImplemented
    return tuple(features_between(f, end - size, end) for size, end in zip(sizes, ends, strict=True))


def is_last(f: Tensor, dim: int) -> bool:
    return dim in (-1, f.dim() - 1)


def features_between(f: Activations, first: int, end: int) -> Activations:
    """The features first … end − 1. The entries of others stay, with the value 0, at the first of these."""
    code = f.code
    inside = (code.indices >= first) & (code.indices < end)
    values = code.values.masked_fill(~inside, 0)
    indices = torch.where(inside, code.indices - first, 0)
    part = Activations.of(replace(code, values=values, indices=indices, d_sae=end - first))
    part._whole = (f, first, end)
    return part


@Activations.handles(torch.zeros_like)
def _zeros_like(f: Activations) -> Any:
    return no_activations(f.shape, f.code.values)


@Activations.handles(Tensor.scatter, torch.scatter)
def _scatter(f: Activations, dim: int, index: Tensor, src: Tensor) -> Any:
    """Entries written into activations without any, at indices that ``PreActivations.topk`` chose."""
    distinct = getattr(index, "is_distinct", False)  # of equal indices the last would be written
    if len(f.code.csr()[0]) or not is_last(f, dim) or not distinct or not isinstance(src, Tensor):
        return NotImplemented
    if index.shape != src.shape or index.shape[:-1] != f.shape[:-1]:
        return NotImplemented
    return Activations.of(SparseCode(src, index.int(), None, f.shape[-1], f.shape[:-1]))


@Activations.handles(Tensor.scatter_)
def _scatter_(f: Activations, dim: int, index: Tensor, src: Tensor) -> Any:
    """The same in place: the object that was written to has the entries too."""
    written = _scatter(f, dim, index, src) if f._whole is None else NotImplemented
    if written is not NotImplemented:
        f._code = written.code
    return written


def no_activations(shape: torch.Size, like: Tensor) -> Activations:
    values = like.new_zeros(*shape[:-1], 0)
    return Activations.of(SparseCode(values, values.int(), None, shape[-1], torch.Size(shape[:-1])))
