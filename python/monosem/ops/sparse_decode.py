"""Sum of the active decoder rows of each token."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import checks, cpu_rows, reference
from monosem.ops.code import SparseCode
from monosem.ops.library import register
from monosem.ops.precision import as_given
from monosem.ops.row_grad import csc, row_grad

PART = 64  # rows of a weighted sum

gather_dot = register(
    "gather_dot(Tensor g, Tensor indices, Tensor offsets, Tensor w) -> Tensor",
    cpu=cpu_rows.gather_dot,
    reference=reference.gather_dot,
    fake=lambda g, indices, offsets, w: g.new_empty(indices.shape[0]),
)


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


sparse_decode = register(
    "sparse_decode(Tensor values, Tensor indices, Tensor offsets, Tensor w, Tensor b) -> Tensor",
    cpu=cpu_rows.sparse_decode,
    reference=reference.sparse_decode,
    fake=lambda values, indices, offsets, w, b: w.new_empty(offsets.shape[0] - 1, w.shape[1]),
    backward=_backward,
    setup=_setup,
)


@as_given
def weighted_sum(coef: Tensor, rows: Tensor) -> Tensor:
    """Σ coef[f] · rows[f], [D]. On a CPU PyTorch makes it by one thread: there, parts of it are decoded."""
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
