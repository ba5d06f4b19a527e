"""How far a Pearson correlation would move with other text: a bootstrap over contexts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_TOGETHER = 100  # resamples drawn at a time


class ContextSums:
    """n, Σf, Σf², Σy, Σy², Σf·y of each context, of one feature's activation f and one proxy's level y."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []

    def update(self, values: Tensor, at: Tensor, level: Tensor, context: Tensor, contexts: int) -> None:
        """A block of text.

        Args:
            values, at: the feature's entries: activations, and on which scored tokens, each [nnz].
            level: [N], the proxy's level of the scored tokens; context: [N], in which context each stands, from 0.
            contexts: how many there are in the block.
        """
        sums = torch.zeros(6, contexts, dtype=torch.float64, device="cpu")
        values, y = values.double(), level[at]
        for row, where, x in (
            (0, context, torch.ones_like(level)),
            (1, context[at], values),
            (2, context[at], values.square()),
            (3, context, level),
            (4, context, level.square()),
            (5, context[at], values * y),
        ):
            sums[row].index_add_(0, where, x)
        self._blocks.append(sums)

    def sums(self) -> np.ndarray:
        """float64 [contexts, 6]."""
        return torch.cat(self._blocks, 1).T.numpy() if self._blocks else np.zeros((0, 6))


def intervals(
    of_features: Sequence[ContextSums], seed: int = 0, resamples: int = 1000
) -> list[tuple[float, float] | None]:
    """The 2.5 % and 97.5 % points of Pearson's r over resampled contexts, of each; None where it is never defined.

    Contexts are drawn with replacement, the same for all. (Tokens of one context are not independent.)
    """
    if not of_features:
        return []
    sums = np.concatenate([s.sums() for s in of_features], 1)  # [contexts, 6 · features]
    random, drawn = np.random.default_rng(seed), []
    for first in range(0, resamples, _TOGETHER):
        count = min(_TOGETHER, resamples - first)
        times = np.stack(
            [np.bincount(random.integers(0, len(sums), len(sums)), minlength=len(sums)) for _ in range(count)]
        )
        drawn.append(pearson(times.astype(np.float64) @ sums))
    r = np.concatenate(drawn)  # [resamples, features]
    return [
        (float(low), float(high)) if np.isfinite([low, high]).all() else None
        for low, high in (
            np.nanpercentile(column, [2.5, 97.5]) if np.isfinite(column).any() else (np.nan, np.nan) for column in r.T
        )
    ]


def pearson(sums: np.ndarray) -> np.ndarray:
    """r of each group of six sums, [..., 6 · features] → [..., features]; NaN where f or y never varies."""
    n, f, ff, y, yy, fy = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 6), -1, 0)
    scale = np.sqrt(np.maximum(ff / n - (f / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (fy / n - f / n * y / n) / scale, np.nan)
