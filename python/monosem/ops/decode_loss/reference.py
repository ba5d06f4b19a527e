"""The definition in plain PyTorch, which every kernel of this operation must match."""

from __future__ import annotations

from torch import Tensor

from monosem.ops.sparse_decode.reference import gather_dot, sparse_decode


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Residual r = decode − x, loss of each token mean_D r², and the gradient (2/D)·r·w of that loss in each value."""
    residual = sparse_decode(values, indices, offsets, w, b) - x
    return residual.square().mean(-1), residual, gather_dot(residual, indices, offsets, w) * (2 / x.shape[1])
