"""The best match of every feature in another dictionary, by the correlation of activations, from streaming sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from monosem.analysis.cross_products import CrossProducts, Entries
from monosem.analysis.logit_table import LogitTable
from monosem.nn.dictionary import Dictionary

BINS = 50


@dataclass(frozen=True)
class Matches:
    """For each feature of one dictionary its best match in the other.

    Attributes:
        feature: int64 [n], the features that fire on at least ``min_tokens`` tokens.
        match: int64 [n], the feature of the other dictionary with the largest correlation.
        r: float64 [n], that Pearson correlation of the activations.
        attribution: float64 [n], Pearson correlation of the attributions of the pair; NaN where not measured.
        logits: float64 [n], Pearson correlation of their logit weights over the used vocabulary; NaN likewise.
        tokens: int64 [n], on how many tokens the feature fires.
    """

    feature: Tensor
    match: Tensor
    r: Tensor
    attribution: Tensor
    logits: Tensor
    tokens: Tensor

    def quantiles(self) -> list[float]:
        """The 10, 25, 50, 75 and 90 % quantiles of r."""
        if not len(self.r):
            return [float("nan")] * 5
        return torch.quantile(
            self.r, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64, device="cpu")
        ).tolist()


@dataclass(frozen=True)
class Side:
    """One side of a comparison: name, number of features, how many fire at all."""

    name: str
    features: int
    alive: int


@dataclass(frozen=True)
class Comparison:
    """Best matches of A's features among B's, and of B's among A's (``backward``), as a distribution.

    ``histogram``: counts of r in ``BINS`` equal bins from 0 to 1 (a negative best match counts in the first).
    """

    name: str
    a: Side
    b: Side
    compared: int
    quantiles: tuple[float, ...]
    backward: tuple[float, ...]
    histogram: tuple[int, ...]
    matches: Matches = field(repr=False, compare=False)

    @property
    def median(self) -> float:
        return self.quantiles[2]


class MatchSums:
    """Two dictionaries and the sums of their codes."""

    def __init__(
        self,
        name: str,
        a: Dictionary,
        b: Dictionary,
        sides: tuple[str, str],
        products: int,
        memory: int,
        folder: str | Path | None,
    ):
        self.name, self.a, self.b, self.sides = name, a, b, sides
        self.products = CrossProducts(a.cfg.d_sae, b.cfg.d_sae, products, memory, folder)
        self.moments = [_Moments(s.cfg.d_sae, products) for s in (a, b)]

    def update(self, a: Entries, b: Entries, tokens: int) -> None:
        self.products.update(a, b, tokens)
        for moments, code in zip(self.moments, (a, b), strict=True):
            moments.update(code, tokens)

    def finish(self, min_tokens: int, logits: Sequence[LogitTable] | None, progress: str | None = None) -> Comparison:
        """The best match of every feature that fires on ``min_tokens``; ``progress`` as in ``CrossProducts.blocks``."""
        a, b = self.moments
        n = len(a.counts)
        best, match = torch.zeros(n, dtype=torch.float64, device="cpu"), torch.zeros(n, dtype=torch.int64, device="cpu")
        back = torch.full((len(b.counts),), -1.0, dtype=torch.float64, device="cpu")
        attribution = torch.full((n,), torch.nan, dtype=torch.float64, device="cpu")
        fires, answers = a.counts >= min_tokens, b.counts > 0
        columns = (answers if answers.any() else ~answers).nonzero().flatten()
        for numbers, sums in self.products.blocks(fires.nonzero().flatten(), columns, progress):
            r = correlation(sums[0], a, b, 0, numbers, columns)
            best[numbers], at = r.max(1)
            match[numbers] = columns[at]
            back[columns] = torch.maximum(back[columns], r.max(0).values)
            if len(sums) > 1:
                attribution[numbers] = _pairwise(
                    sums[1][torch.arange(len(at), device="cpu"), at], a, b, 1, numbers, match[numbers]
                )
        feature = fires.nonzero().flatten()
        if not len(feature):
            raise ValueError(
                f"min_tokens: no feature of {self.sides[0]} fires on {min_tokens} of the {a.tokens:,} "
                "tokens; read more text, or compare rarer features too (--least)"
            )
        agreed = torch.full((len(feature),), torch.nan, dtype=torch.float64, device="cpu")
        if logits is not None:
            for start in range(0, len(feature), 512):
                f = feature[start : start + 512]
                agreed[start : start + 512] = _row_correlation(logits[0].rows(f), logits[1].rows(match[f]))
        matches = Matches(
            feature=feature,
            match=match[feature],
            r=best[feature],
            attribution=attribution[feature],
            logits=agreed,
            tokens=a.counts[feature],
        )
        back = Matches(*[back[b.counts >= min_tokens]] * 6)
        counts = torch.histc(matches.r.clamp(0, 1).float(), BINS, 0, 1).int().tolist()
        sides = [
            Side(name, len(m.counts), int((m.counts > 0).sum()))
            for name, m in zip(self.sides, self.moments, strict=True)
        ]
        return Comparison(
            name=self.name,
            a=sides[0],
            b=sides[1],
            compared=len(feature),
            quantiles=tuple(matches.quantiles()),
            backward=tuple(back.quantiles()),
            histogram=tuple(counts),
            matches=matches,
        )


class _Moments:
    """Σu, Σu² of each value of each feature, float64 [P, F]; the tokens on which it fires; tokens read."""

    def __init__(self, d_sae: int, products: int) -> None:
        self.sum, self.square = (torch.zeros(products, d_sae, dtype=torch.float64, device="cpu") for _ in range(2))
        self.counts, self.tokens = torch.zeros(d_sae, dtype=torch.int64, device="cpu"), 0

    def update(self, code: Entries, tokens: int) -> None:
        values = code.values.double()
        self.sum.index_add_(1, code.features, values)
        self.square.index_add_(1, code.features, values.square())
        self.counts += torch.bincount(code.features, minlength=len(self.counts))
        self.tokens += tokens

    def mean(self, p: int) -> Tensor:
        return self.sum[p] / self.tokens

    def deviation(self, p: int) -> Tensor:
        return (self.square[p] / self.tokens - self.mean(p).square()).clamp_min(0).sqrt()


def correlation(sums: Tensor, a: _Moments, b: _Moments, p: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Pearson's r of some features of A (``rows``) with some of B (``columns``); 0 where either never varies."""
    scale = a.deviation(p)[rows, None] * b.deviation(p)[columns]
    r = sums / a.tokens - a.mean(p)[rows, None] * b.mean(p)[columns]
    return torch.where(scale > 0, r / scale, torch.zeros((), dtype=r.dtype, device="cpu"))


def _pairwise(sums: Tensor, a: _Moments, b: _Moments, p: int, i: Tensor, j: Tensor) -> Tensor:
    scale = a.deviation(p)[i] * b.deviation(p)[j]
    r = sums / a.tokens - a.mean(p)[i] * b.mean(p)[j]
    return torch.where(scale > 0, r / scale, torch.zeros((), dtype=r.dtype, device="cpu"))


def _row_correlation(u: Tensor, v: Tensor) -> Tensor:
    u, v = (w.double() - w.double().mean(1, keepdim=True) for w in (u, v))
    return (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)).clamp_min(1e-300)
