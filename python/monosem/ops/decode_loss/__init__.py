"""Decode, residual, loss and the gradient of the code in one pass over the active rows."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import checks
from monosem.ops.code import SparseCode, row_ids
from monosem.ops.csc import csc
from monosem.ops.decode_loss import cpu, reference
from monosem.ops.library import register
from monosem.ops.row_grad import row_grad
from monosem.ops.sparse_decode import gather_dot


def _fake(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor):
    return x.new_empty(x.shape[0]), torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(values)


def _setup(ctx, inputs, output) -> None:
    values, indices, offsets, w, _, _ = inputs
    _, residual, slope = output
    ctx.save_for_backward(values, indices, offsets, w, residual, slope)
    ctx.mark_non_differentiable(slope)
    ctx.set_materialize_grads(False)


def _backward(ctx, g_loss: Tensor | None, g_residual: Tensor | None, _):
    values, indices, offsets, w, residual, slope = ctx.saved_tensors
    need_values, _, _, need_w, need_b, need_x = ctx.needs_input_grad
    if g_loss is None and g_residual is None:
        return (None,) * 6
    g, gv = g_residual, None
    if need_values and g_residual is not None:
        gv = gather_dot(g_residual.contiguous(), indices, offsets, w)
    if g_loss is not None:
        from_loss = residual * (g_loss * (2 / residual.shape[1]))[:, None]
        g = from_loss if g is None else g + from_loss
        if need_values:  # the forward pass computed the slope of each value
            from_loss = slope * g_loss[row_ids(offsets, values.shape[0])]
            gv = from_loss if gv is None else gv + from_loss
    assert g is not None  # one of the two gradients was given
    g = g.contiguous()
    gw = row_grad(*csc(indices, offsets, w.shape[0]), values, g) if need_w else None
    return gv, None, None, gw, g.sum(0) if need_b else None, -g if need_x else None


_decode_loss = register(
    "decode_loss(Tensor values, Tensor indices, Tensor offsets, Tensor w, Tensor b, Tensor x) "
    "-> (Tensor, Tensor, Tensor)",
    folder=__name__,
    cpu=cpu.decode_loss,
    reference=reference.decode_loss,
    fake=_fake,
    backward=_backward,
    setup=_setup,
)


def decode_loss_rows(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""``decode_loss`` of a code in CSR form, with the gradient of each value.

    Args:
        values, indices, offsets: the code: [nnz], int32 [nnz], int64 [N + 1].
        w: decoder rows [F, D].
        b: decoder bias [D].
        x: the target [N, D].

    Returns:
        ``loss`` [N], mean_D r² with the residual r = x̂ − x; ``residual`` [N, D]; ``slopes`` [nnz], (2/D) · r · w[index]
        of each entry, the gradient of its token's loss in its value. Loss and residual are differentiable.

    Raises:
        IndexError: a feature outside 0…F − 1, or offsets that do not divide the entries (on a GPU with
            ``MONOSEM_CHECK=1`` only).
    """
    return _decode_loss(values, indices, offsets, w, b, x)


def decode_loss(code: SparseCode, w: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Squared error of the reconstruction, ``mean_D (x̂ − x)²`` of each token, and the residual ``x̂ − x``.

    The gradient of the code is computed in the same pass, while the decoder rows are still in cache.

    Args:
        code: the active features of x's tokens.
        w: decoder rows [F, D].
        b: decoder bias [D].
        x: [..., D], the target.

    Returns:
        Loss [...] and residual [..., D]; both differentiable in the code's values, w, b and x.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    checks.shape("w", w, (code.d_sae, "d_in"))
    checks.shape("b", b, (w.shape[1],))
    if x.shape != (*code.shape, w.shape[1]):
        raise ValueError(
            f"x: got shape {list(x.shape)}; wanted {[*code.shape, w.shape[1]]}, the shape that was encoded"
        )
    checks.same("code.values", code.values, "w", w)
    checks.same("x", x, "w", w)
    loss, residual, _ = decode_loss_rows(*code.csr(), w, b, x.reshape(-1, w.shape[1]))
    return loss.view(code.shape), residual.view(x.shape)
