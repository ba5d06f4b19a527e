"""Gradients that all encoders share."""

from __future__ import annotations

from torch import Tensor

from monosem.ops.csc import csc
from monosem.ops.row_grad import feature_sum, row_grad
from monosem.ops.sparse_decode import sparse_decode


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
