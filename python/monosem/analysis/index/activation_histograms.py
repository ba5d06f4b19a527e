"""How strongly each feature fires: a histogram by source, and a fair sample of every level of activation."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.analysis.index.reservoir import Reservoir
from monosem.analysis.sources import check_sources
from monosem.distributed.peers import Peers


class ActivationHistograms:
    """Counts [F, columns, bins] and samples [F · bins, each] of the activations, on a range that grows by doubling.

    One pass cannot know the maximum. The range of a feature ends at the lowest power of two above its values so far;
    when a larger value comes, it doubles, and neighbouring bins are merged in pairs: counts add, and of two samples the
    entries that rank first are a sample of both. So every count is exact, every bin holds a uniform sample of its
    entries, and neither depends on how the text is cut into blocks, or divided among processes. At the end the maximum
    lies in the upper half of the range: at least half of the bins span 0 to the maximum.

    Args:
        columns: sources (and marks) that are counted apart.
        per_bin: entries kept of every bin.
    """

    def __init__(self, d_sae: int, columns: int, bins: int, per_bin: int, seed: int = 0, wide: bool = True) -> None:
        if bins < 2 or bins % 2:
            raise ValueError(f"bins: got {bins}; wanted an even number ≥ 2 (bins are merged in pairs)")
        self.bins = bins
        check_sources(4 * d_sae * columns * bins, columns, f"the histograms of each over {d_sae:,} features")
        self.upper = torch.zeros(d_sae, dtype=torch.float32, device="cpu")
        self.counts = torch.zeros(d_sae, columns, bins, dtype=torch.int32, device="cpu")
        self.sample = Reservoir(d_sae * bins, per_bin, "random", seed, wide)

    def update(self, features: Tensor, values: Tensor, places: Tensor, columns: list[tuple[Tensor, Tensor]]) -> None:
        """Count entries [nnz]. ``columns``: pairs (which entries, their column), all counted in the same bins."""
        largest = torch.zeros_like(self.upper).scatter_reduce_(0, features, values, "amax")
        self._reach(_power_above(largest))
        bin = (values / self.upper[features] * self.bins).long().clamp_(max=self.bins - 1)
        for chosen, column in columns:
            cell = (features[chosen] * self.counts.shape[1] + column) * self.bins + bin[chosen]
            self.counts.view(-1).index_add_(0, cell, torch.ones_like(cell, dtype=torch.int32))
        self.sample.update(features * self.bins + bin, values, places)

    def merge(self, peers: Peers) -> None:
        """Of all processes, in the first one."""
        upper = self.upper.clone()
        peers.most_(upper)
        self._reach(upper)
        peers.add_(self.counts)
        self.sample.merge(peers)

    def _reach(self, upper: Tensor) -> None:
        """Ranges that are at least these; 0: as they are."""
        self.upper = torch.where(self.upper > 0, self.upper, upper)
        while len(grown := (upper > self.upper).nonzero().flatten()):
            self._double(grown)

    def _double(self, grown: Tensor) -> None:
        half = self.bins // 2
        old = self.counts[grown]
        self.counts[grown] = 0
        self.counts[grown, :, :half] = old.unflatten(-1, (-1, 2)).sum(-1, dtype=torch.int32)
        kept, size = self.sample, self.sample.size
        lists = (grown[:, None] * self.bins + torch.arange(self.bins, device="cpu")).flatten()
        pairs = kept.values[lists].view(-1, 2 * size), kept.places[lists].view(-1, 2 * size)
        kept.values[lists], kept.places[lists] = 0.0, -1
        lower = lists.view(-1, self.bins)[:, :half].flatten()
        kept.values[lower], kept.places[lower] = kept.best(*pairs)
        self.upper[grown] *= 2

    def arrays(self) -> dict[str, Tensor]:
        return {"upper": self.upper, "counts": self.counts} | {
            f"sample.{k}": v for k, v in self.sample.arrays().items()
        }


def _power_above(values: Tensor) -> Tensor:
    """The lowest power of two above each value; 0 where that is 0, the largest one where none is above."""
    powers = torch.ldexp(torch.ones_like(values), values.frexp().exponent.clamp_max(127))
    return torch.where(values > 0, powers, 0.0)
