"""What one feature does at each size of its activation: histograms by proxy, the share of each level, examples."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from monosem.analysis.evidence.proxies.intervals import ContextSums
from monosem.analysis.index.example import Example
from monosem.analysis.scan import Block

EDGES = (0.0, 3.0, 10.0, 30.0)  # nats: the classes of a proxy's score by which histograms are coloured
LEVELS = 11  # as many as the paper's intervals of activation ("Feature Activation Interval Sampling")
_BINS = 44  # four to a level
_EACH = 3  # random examples of a level


class Profile:
    """Streaming: activation histogram by class of the score, its expected-value form, examples of each level.

    Args:
        index: feature; proxy: number of the proxy; maximum: the feature's largest activation (from a first pass).
    """

    def __init__(self, index: int, proxy: int, maximum: float, length: int, seed: int = 0) -> None:
        self.index, self.proxy, self.maximum, self.length = index, proxy, maximum or 1.0, length
        self.counts = torch.zeros(len(EDGES) + 1, _BINS, dtype=torch.int64, device="cpu")
        self.mass = torch.zeros(len(EDGES) + 1, _BINS, dtype=torch.float64, device="cpu")
        self._kept: list[list[tuple[float, int, float]]] = [[] for _ in range(LEVELS)]
        self._random = torch.Generator().manual_seed(seed + index)
        self.contexts = ContextSums()

    def update(
        self, block: Block, values: Tensor, features: Tensor, at: Tensor, scores: Tensor, levels: Tensor, places: Tensor
    ) -> None:
        """Entries of a code; ``scores``, ``levels`` [P, N] of its tokens; ``places`` [nnz] row · T + position."""
        mine = (features == self.index).nonzero().flatten()
        context = block.where // block.tokens.shape[1]
        self.contexts.update(values[mine], at[mine], levels[self.proxy], context, len(block.row))
        if not len(mine):
            return
        values, place, score = values[mine].double(), places[mine], scores[self.proxy, at[mine]]
        bins = (values / self.maximum * _BINS).long().clamp(max=_BINS - 1)
        cell = torch.bucketize(score, torch.tensor(EDGES, dtype=score.dtype, device="cpu")) * _BINS + bins
        self.counts += torch.bincount(cell, minlength=self.counts.numel()).view_as(self.counts)
        self.mass.view(-1).index_add_(0, cell, values)
        keys = torch.rand(len(values), generator=self._random, dtype=torch.float32, device="cpu").tolist()
        offered: dict[int, list[tuple[float, int, float]]] = {}
        for level, key, p, v in zip(
            (bins * LEVELS // _BINS).tolist(), keys, place.tolist(), values.tolist(), strict=True
        ):
            offered.setdefault(level, []).append((key, p, v))
        for level, new in offered.items():
            self._kept[level] = sorted([*self._kept[level], *new], reverse=True)[:_EACH]

    def examples(self) -> list[list[Example]]:
        """Random examples of each level, weakest level first."""
        return [[Example(p // self.length, p % self.length, v) for _, p, v in kept] for kept in self._kept]

    def to_dict(self) -> dict[str, Any]:
        counts = self.counts.view(len(EDGES) + 1, LEVELS, -1).sum(-1)
        total, positive = counts.sum(0), counts[1:].sum(0)
        width = self.maximum / LEVELS
        return {
            "edges": [self.maximum * i / _BINS for i in range(_BINS + 1)],
            "counts": self.counts.tolist(),
            "mass": self.mass.tolist(),
            "levels": [
                {
                    "low": i * width,
                    "high": (i + 1) * width,
                    "tokens": int(total[i]),
                    "specificity": int(positive[i]) / int(total[i]) if total[i] else None,
                }
                for i in range(LEVELS)
            ],
        }


def class_names() -> list[str]:
    """What the classes of a score are called, in the order of ``counts``."""
    between = [f"{a:g} to {b:g} nats" for a, b in pairwise(EDGES)]
    return ["proxy ≤ 0", *between, f"above {EDGES[-1]:g} nats"]
