"""Gradients that all encoders share."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.code import uniform_offsets
from monosem.ops.csc import csc
from monosem.ops.row_grad import feature_sum, row_grad
from monosem.ops.sparse_decode import gather_dot, sparse_decode


def encoder_gradients(
    coef: Tensor, indices: Tensor, offsets: Tensor, x: Tensor, w: Tensor, need_x: bool, need_w: bool, need_b: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, w and b from the gradient ``coef`` of each chosen pre-activation."""
    gx = sparse_decode(coef, indices, offsets, w, w.new_zeros(w.shape[1])) if need_x else None
    if not (need_w or need_b):
        return gx, None, None
    starts, entries, tokens = csc(indices, offsets, w.shape[0])
    gw = row_grad(starts, entries, tokens, coef, x) if need_w else None
    gb = feature_sum(starts, entries, coef) if need_b else None
    return gx, gw, gb


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, b: Tensor, indices: Tensor) -> Tensor:
        n, k = indices.shape
        flat, offsets = indices.reshape(-1), uniform_offsets(n, k, x.device)
        ctx.save_for_backward(x, w, flat, offsets)
        return (gather_dot(x.contiguous(), flat, offsets, w) + b[flat.long()]).view(n, k)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (g,) = grad_outputs
        x, w, indices, offsets = ctx.saved_tensors
        gradients = encoder_gradients(g.reshape(-1), indices, offsets, x, w, *ctx.needs_input_grad[:3])
        return *gradients, None


def chosen_preactivations(x: Tensor, w: Tensor, b: Tensor, indices: Tensor) -> Tensor:
    """``x[n] · w[i] + b[i]`` for i = indices[n, j]: [N, k], differentiable in x [N, D], w [F, D] and b [F].

    Args:
        indices: int32 [N, k], k features of each token.
    """
    return _Chosen.apply(x, w, b, indices)
