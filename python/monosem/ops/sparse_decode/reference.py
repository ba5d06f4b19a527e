"""The definitions in plain PyTorch, which every kernel of these operations must match."""

from __future__ import annotations

from torch import Tensor

from monosem.ops.code import row_ids


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """b + Σ_j values_j · w[indices_j], token by token."""
    parts = values[:, None] * w[indices.long()]
    out = b.expand(len(offsets) - 1, -1).contiguous()
    return out.index_add(0, row_ids(offsets, len(values)), parts)


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    """g[token of j] · w[indices_j] for each entry j: the gradient of ``sparse_decode`` in its values."""
    return (g[row_ids(offsets, len(indices))] * w[indices.long()]).sum(-1)
