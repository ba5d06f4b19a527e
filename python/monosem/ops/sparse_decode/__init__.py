"""Sum of the active decoder rows of each token."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import checks
from monosem.ops.code import SparseCode
from monosem.ops.csc import csc
from monosem.ops.library import register
from monosem.ops.precision import as_given
from monosem.ops.row_grad import row_grad
from monosem.ops.sparse_decode import cpu, reference

PART = 64  # rows of a weighted sum

_gather_dot = register(
    "gather_dot(Tensor g, Tensor indices, Tensor offsets, Tensor w) -> Tensor",
    folder=__name__,
    cpu=cpu.gather_dot,
    reference=reference.gather_dot,
    fake=lambda g, indices, offsets, w: g.new_empty(indices.shape[0]),
)


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    """``g[token of j] · w[indices_j]`` of each entry j: the gradient of ``sparse_decode`` in its values.

    Args:
        g: a row per token, [N, D].
        indices, offsets: of a code in CSR form, int32 [nnz] and int64 [N + 1].
        w: decoder rows [F, D].

    Returns:
        [nnz], in the dtype of g. Not differentiable.

    Raises:
        IndexError: a feature outside 0…F − 1, or offsets that do not divide the entries (on a GPU with
            ``MONOSEM_CHECK=1`` only).
    """
    return _gather_dot(g, indices, offsets, w)


def _setup(ctx, inputs, output) -> None:
    values, indices, offsets, w, _ = inputs
    ctx.save_for_backward(values, indices, offsets, w)


def _backward(ctx, g: Tensor):
    values, indices, offsets, w = ctx.saved_tensors
    need_values, _, _, need_w, need_b = ctx.needs_input_grad
    g = g.contiguous()
    gv = gather_dot(g, indices, offsets, w) if need_values else None
    gw = row_grad(*csc(indices, offsets, w.shape[0]), values, g) if need_w else None
    return gv, None, None, gw, g.sum(0) if need_b else None


_sparse_decode = register(
    "sparse_decode(Tensor values, Tensor indices, Tensor offsets, Tensor w, Tensor b) -> Tensor",
    folder=__name__,
    cpu=cpu.sparse_decode,
    reference=reference.sparse_decode,
    fake=lambda values, indices, offsets, w, b: w.new_empty(offsets.shape[0] - 1, w.shape[1]),
    backward=_backward,
    setup=_setup,
)


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    r"""``x̂ = b + Σ_j values_j · w[indices_j]`` over the entries of each token of a code in CSR form.

    Args:
        values, indices, offsets: the code: [nnz], int32 [nnz], int64 [N + 1].
        w: decoder rows [F, D].
        b: decoder bias [D].

    Returns:
        [N, D], in the dtype of w. Differentiable in values, w and b. ``decode`` takes a ``SparseCode``.

    Raises:
        IndexError: a feature outside 0…F − 1, or offsets that do not divide the entries (on a GPU with
            ``MONOSEM_CHECK=1`` only).
    """
    return _sparse_decode(values, indices, offsets, w, b)


@as_given
def weighted_sum(coef: Tensor, rows: Tensor) -> Tensor:
    """Σ coef[f] · rows[f], [D]. On a CPU PyTorch uses one thread for it: there, it is decoded in parts."""
    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return coef @ rows
    f, d = rows.shape
    starts = torch.arange(0, f + PART, PART, device="cpu").clamp_(max=f)
    return sparse_decode(coef, torch.arange(f, dtype=torch.int32, device="cpu"), starts, rows, rows.new_zeros(d)).sum(0)


def decode(code: SparseCode, w: Tensor, b: Tensor) -> Tensor:
    r"""``x̂ = b + Σ_j values_j · w[indices_j]``.

    Args:
        code: the active features of tokens of any leading shape.
        w: decoder rows [F, D], F = ``code.d_sae``.
        b: decoder bias [D].

    Returns:
        [..., D]. Differentiable in the code's values, w and b.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    checks.shape("w", w, (code.d_sae, "d_in"))
    checks.shape("b", b, (w.shape[1],))
    checks.same("code.values", code.values, "w", w)
    checks.same("b", b, "w", w)
    return sparse_decode(*code.csr(), w, b).view(*code.shape, w.shape[1])
