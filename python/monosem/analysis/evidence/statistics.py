"""Scores that several claims share: rank correlation with weights, balanced accuracy, medians with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def ranks(values: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """Mid-ranks: the weight below a value plus half the weight that ties with it, [n] → float64 [n].

    With equal weights these are the usual average ranks, up to a constant.
    """
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    _, group = np.unique(values, return_inverse=True)
    mass = np.bincount(group, weights)
    return (mass.cumsum() - mass / 2)[group]


def spearman(predicted: ArrayLike, true: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Spearman's rank correlation with ties, optionally weighted; 0 where either side never varies.

    ρ = weighted Pearson correlation of the weighted mid-ranks. The paper gives a constant prediction the score 0
    (*Towards Monosemanticity*, "Automated Interpretability – Activations").

    Args:
        predicted, true: [n].
        weights: ≥ 0, [n]; entries of weight 0 do not count at all.

    Raises:
        ValueError: lengths that differ, a negative or an infinite weight, or a value that is not a number.
    """
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    w = np.ones_like(true) if weights is None else np.asarray(weights, dtype=np.float64)
    if not predicted.shape == true.shape == w.shape or predicted.ndim != 1:
        raise ValueError(
            f"predicted, true, weights: got shapes {predicted.shape}, {true.shape}, {w.shape}; wanted one length"
        )
    if np.isnan(predicted).any() or np.isnan(true).any() or not np.isfinite(w).all() or (w < 0).any():
        raise ValueError("predicted, true, weights: got a NaN, or a weight below 0 or infinite; wanted plain numbers")
    kept = w > 0
    predicted, true, w = predicted[kept], true[kept], w[kept]
    if len(w) < 2:
        return 0.0
    w = w / w.sum()
    a, b = ranks(predicted, w), ranks(true, w)
    a, b = a - (w * a).sum(), b - (w * b).sum()
    scale = np.sqrt((w * a * a).sum() * (w * b * b).sum())
    # Mid-ranks of a constant differ from their mean by rounding only.
    if len(np.unique(predicted)) < 2 or len(np.unique(true)) < 2 or scale == 0:
        return 0.0
    return float(np.clip((w * a * b).sum() / scale, -1.0, 1.0))


def balanced_accuracy(predicted: ArrayLike, true: ArrayLike) -> float | None:
    """Mean of the shares of the true and of the false that are predicted right; None if only one of them occurs."""
    predicted, true = np.asarray(predicted, dtype=bool), np.asarray(true, dtype=bool)
    if predicted.shape != true.shape:
        raise ValueError(f"predicted, true: got shapes {predicted.shape}, {true.shape}; wanted the same")
    if true.all() or not true.any():
        return None
    return float((predicted[true].mean() + (~predicted[~true]).mean()) / 2)


def auroc(score: ArrayLike, true: ArrayLike) -> float | None:
    """Probability that a true one scores above a false one, ties half; None if only one of them occurs.

    With scores of 0 and 1 alone it is the balanced accuracy.
    """
    score, true = np.asarray(score, dtype=np.float64), np.asarray(true, dtype=bool)
    if score.shape != true.shape:
        raise ValueError(f"score, true: got shapes {score.shape}, {true.shape}; wanted the same")
    if true.all() or not true.any():
        return None
    below = ranks(score)[true].sum() - true.sum() ** 2 / 2  # ties and pairs among the true count half in ranks
    return float(below / (true.sum() * (~true).sum()))


@dataclass(frozen=True)
class Median:
    """A median with its bootstrap interval (2.5 % to 97.5 % of the medians of resampled items)."""

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def to_dict(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high, "n": self.n}


def median_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> Median | None:
    """The median of some items and how far it would move with other items; None if there are none."""
    data = np.asarray(list(values), dtype=np.float64)
    if not len(data):
        return None
    drawn = np.random.default_rng(seed).integers(0, len(data), (resamples, len(data)))
    low, high = np.percentile(np.median(data[drawn], axis=1), [2.5, 97.5])
    return Median(float(np.median(data)), float(low), float(high), len(data))


@dataclass(frozen=True)
class Mean:
    """A mean over the members of groups, with its bootstrap interval (2.5 % to 97.5 %, over resampled groups)."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(totals: ArrayLike, counts: ArrayLike, seed: int = 0, resamples: int = 2000) -> Mean | None:
    """``Σ totals / Σ counts`` and how far it would move with other groups; None if no group has a member.

    Members of a group, such as the tokens of one context, need not be independent.

    Args:
        totals, counts: [groups], the sum over each group's members and how many they are.
    """
    totals, counts = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if totals.shape != counts.shape or totals.ndim != 1:
        raise ValueError(f"totals, counts: got shapes {totals.shape} and {counts.shape}; wanted one length")
    totals, counts = totals[counts > 0], counts[counts > 0]
    if not len(counts):
        return None
    drawn = np.random.default_rng(seed).integers(0, len(counts), (resamples, len(counts)))
    low, high = np.percentile(totals[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return Mean(float(totals.sum() / counts.sum()), float(low), float(high), len(counts))
