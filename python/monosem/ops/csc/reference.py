"""The definition in plain PyTorch, which every kernel of this operation must match."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.code import row_ids


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    """Entries sorted by (feature, token): where each feature starts, which entry, which token."""
    entries = indices.long().argsort(stable=True)
    counts = torch.bincount(indices.long(), minlength=d_sae)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return starts, entries, row_ids(offsets, len(indices))[entries].int()
