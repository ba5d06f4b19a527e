"""The definition in plain PyTorch, which every kernel of this operation must match."""

from __future__ import annotations

from torch import Tensor


def topk_encode(x: Tensor, w: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """ReLU of the k largest of x·wᵀ + b, largest first; among equals the lowest index."""
    values, indices = (x @ w.T + b).sort(dim=-1, descending=True, stable=True)
    return values[:, :k].clamp(min=0), indices[:, :k].int()
