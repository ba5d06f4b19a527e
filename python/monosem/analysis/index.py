"""A feature index: for every feature where it fires hardest, a fair sample of where it fires, and how strongly.

Streaming and bounded: F × (top + sample) places and F × sources × bins counts, however long the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.analysis.scan import Block


class TopEntries:
    """For each feature the entries with the largest keys: ``keys``, ``values``, ``places``, each [F, size].

    Empty slots have key −inf and place −1. Sorted by key, largest first; of equal keys the earlier entry stays.
    """

    def __init__(self, d_sae: int, size: int) -> None:
        self.size = size
        self.keys = torch.full((d_sae, size), -torch.inf)
        self.values = torch.zeros(d_sae, size)
        self.places = torch.full((d_sae, size), -1, dtype=torch.int64)

    def update(self, features: Tensor, keys: Tensor, values: Tensor, places: Tensor) -> None:
        """Offer entries, each [nnz]; one sort of those that beat the smallest key kept."""
        new = keys > self.keys[features, -1]
        features, keys, values, places = features[new], keys[new], values[new], places[new]
        order = torch.argsort(keys, descending=True, stable=True)
        order = order[torch.argsort(features[order], stable=True)]
        features = features[order]
        touched, group, sizes = torch.unique_consecutive(features, return_inverse=True, return_counts=True)
        if not len(touched):
            return
        rank = torch.arange(len(features)) - (sizes.cumsum(0) - sizes)[group]
        kept = rank < self.size
        group, rank, order = group[kept], self.size + rank[kept], order[kept]
        merged = []
        for held, offered, empty in (
            (self.keys, keys, -torch.inf),
            (self.values, values, 0.0),
            (self.places, places, -1),
        ):
            both = torch.full((len(touched), 2 * self.size), empty, dtype=held.dtype)
            both[:, : self.size] = held[touched]
            both[group, rank] = offered[order]
            merged.append(both)
        best = torch.argsort(merged[0], dim=1, descending=True, stable=True)[:, : self.size]
        for held, both in zip((self.keys, self.values, self.places), merged, strict=True):
            held[touched] = both.gather(1, best)


class Histogram:
    """Counts of activations by feature, source and size, on a range that grows by doubling: [F, sources, bins].

    The range of a feature starts at its first block's maximum; when a larger value comes, neighbouring bins are
    merged in pairs, so every count stays exact.
    """

    def __init__(self, d_sae: int, sources: int, bins: int = 32) -> None:
        if bins < 2 or bins % 2:
            raise ValueError(f"bins: got {bins}; wanted an even number ≥ 2 (bins are merged in pairs)")
        self.bins = bins
        self.upper = torch.zeros(d_sae)
        self.counts = torch.zeros(d_sae, sources, bins, dtype=torch.int32)

    def update(self, features: Tensor, values: Tensor, source: Tensor) -> None:
        largest = torch.zeros_like(self.upper).scatter_reduce_(0, features, values, "amax")
        self.upper = torch.where(self.upper > 0, self.upper, largest)
        while len(grown := (largest > self.upper).nonzero().flatten()):
            old = self.counts[grown]
            self.counts[grown] = 0
            self.counts[grown, :, : self.bins // 2] = old.unflatten(-1, (-1, 2)).sum(-1, dtype=torch.int32)
            self.upper[grown] *= 2
        place = (values / self.upper[features] * self.bins).long().clamp_(max=self.bins - 1)
        cell = (features * self.counts.shape[1] + source) * self.bins + place
        self.counts.view(-1).index_add_(0, cell, torch.ones_like(cell, dtype=torch.int32))


@dataclass(frozen=True)
class Example:
    """One token of the text on which a feature fires."""

    row: int
    position: int
    value: float


class FeatureIndex:
    """Feed it the blocks of a text (``update``), then ask about any feature.

    Args:
        d_sae: number of features.
        sources: names of the sources.
        length: tokens in a row.
        top: hardest examples kept per feature, at most one of each row.
        sample: random examples kept per feature, every active token equally likely.
        bins: bins of the activation histogram.
        seed: of the random sample.
    """

    def __init__(
        self, d_sae: int, sources: Sequence[str], length: int, *, top: int = 14, sample: int = 64, bins: int = 32,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.sources, self.length = list(sources), length
        self.top = TopEntries(d_sae, top)
        self.sample = TopEntries(d_sae, sample)
        self.histogram = Histogram(d_sae, len(self.sources), bins)
        self.tokens = 0
        self.counts = torch.zeros(d_sae, dtype=torch.int64)
        self.maximum = torch.zeros(d_sae)
        self._random = torch.Generator().manual_seed(seed)

    def update(self, block: Block) -> None:
        """Read one block."""
        features, values, places = block.features, block.values, block.places
        self.tokens += len(block.source)
        self.counts += torch.bincount(features, minlength=len(self.counts))
        self.maximum.scatter_reduce_(0, features, values, "amax")
        self.histogram.update(features, values, block.source[block.at])
        best = self._best_of_row(features, values, places)
        self.top.update(features[best], values[best], values[best], places[best])
        keys = torch.rand(len(values), generator=self._random)
        self.sample.update(features, keys, values, places)

    def _best_of_row(self, features: Tensor, values: Tensor, places: Tensor) -> Tensor:
        """Entry numbers: for each feature and row the largest entry, if it can still enter the top."""
        new = (values > self.top.keys[features, -1]).nonzero().flatten()
        order = new[torch.argsort(values[new], descending=True, stable=True)]
        group = (
            features[order] * (int(places.max()) // self.length + 1 if len(places) else 1)
            + places[order] // self.length
        )
        by_group = torch.argsort(group, stable=True)
        group = group[by_group]
        first = torch.ones_like(group, dtype=torch.bool)
        first[1:] = group[1:] != group[:-1]
        return order[by_group[first]]

    @property
    def density(self) -> Tensor:
        """Share of the tokens on which each feature is active, float64 [F]."""
        return self.counts.double() / max(self.tokens, 1)

    def top_examples(self, feature: int) -> list[Example]:
        """The hardest examples, hardest first, one of each row."""
        return self._examples(self.top, feature)

    def random_examples(self, feature: int) -> list[Example]:
        """The kept random sample, every active token equally likely, in random order."""
        return self._examples(self.sample, feature)

    def interval_examples(
        self, feature: int, intervals: int = 4, each: int = 2
    ) -> list[tuple[float, float, list[Example]]]:
        """Random examples from equal intervals of the activation, highest interval first: (low, high, examples).

        The paper cuts the spectrum from 0 to the maximum into 11 such intervals (appendix "Feature Interpretability
        Rubric"). They come from the kept sample: a thin interval may have fewer than ``each``, or none.
        """
        step = float(self.maximum[feature]) / intervals
        found = self.random_examples(feature)
        out = []
        for i in reversed(range(intervals)):
            low, high = i * step, (i + 1) * step
            inside = [e for e in found if low < e.value <= high or (i == intervals - 1 and e.value > high)]
            out.append((low, high, inside[:each]))
        return out

    def activation_histogram(self, feature: int) -> tuple[float, list[int], Tensor]:
        """(upper end of the range, sources that occur, counts [those sources, bins]); no bins above the maximum."""
        counts = self.histogram.counts[feature]
        upper = float(self.histogram.upper[feature])
        occupied = counts.sum(0).nonzero()
        bins = int(occupied.max()) + 1 if len(occupied) else 0
        present = counts.sum(1).nonzero().flatten()
        order = present[torch.argsort(counts[present].sum(1), descending=True)]
        return upper * bins / self.histogram.bins, order.tolist(), counts[order, :bins]

    def _examples(self, entries: TopEntries, feature: int) -> list[Example]:
        places, values = entries.places[feature], entries.values[feature]
        return [
            Example(place // self.length, place % self.length, value)
            for place, value in zip(places.tolist(), values.tolist(), strict=True)
            if place >= 0
        ]
