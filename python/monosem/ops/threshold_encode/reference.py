"""The definitions in plain PyTorch, which every kernel of these operations must match."""

from __future__ import annotations

import torch
from torch import Tensor


def threshold_encode(x: Tensor, w: Tensor, b: Tensor, threshold: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The entries h = x·wᵀ + b that are not ≤ the threshold of their feature (0), in CSR form, features ascending."""
    f = x @ w.T + b
    rows, indices = (~(f <= (0 if threshold is None else threshold))).nonzero(as_tuple=True)
    offsets = torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=len(x)).cumsum(0)])
    return f[rows, indices], indices.int(), offsets


def threshold_encode_within(
    x: Tensor, w: Tensor, b: Tensor, capacity: int, per_token: int, threshold: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same in arrays of ``capacity`` entries, less tokens with more than ``per_token`` or behind the capacity."""
    f = x @ w.T + b
    active = ~(f <= (0 if threshold is None else threshold))
    counts = active.sum(-1)
    kept = (counts <= per_token) & (torch.where(counts <= per_token, counts, 0).cumsum(0) <= capacity)
    rows, columns = (active & kept[:, None]).nonzero(as_tuple=True)
    values, indices = f.new_zeros(capacity), columns.new_full((capacity,), len(w), dtype=torch.int32)
    values[: len(rows)], indices[: len(rows)] = f[rows, columns], columns.int()
    offsets = torch.cat([counts.new_zeros(1), torch.where(kept, counts, 0).cumsum(0)])
    return values, indices, offsets, counts.int(), kept
