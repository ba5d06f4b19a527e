"""The row of the text on which each feature is strongest, kept while the text is read."""

from __future__ import annotations

import torch

from monosem.analysis.scan import Block


class Peaks:
    """``value`` fp32 [F]: the largest activation so far. ``row`` int64 [F]: the first row with it (−1: none)."""

    def __init__(self, d_sae: int) -> None:
        self.value = torch.zeros(d_sae, dtype=torch.float32, device="cpu")
        self.row = torch.full((d_sae,), -1, dtype=torch.int64, device="cpu")

    def update(self, block: Block) -> None:
        rows = block.places // block.tokens.shape[1]
        best = self.value.scatter_reduce(0, block.features, block.values, "amax")
        sets = (block.values == best[block.features]) & (best > self.value)[block.features]
        features, rows = block.features[sets], rows[sets]
        self.row.scatter_reduce_(0, features, rows, "amin", include_self=False)
        self.value = best
