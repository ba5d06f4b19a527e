"""Queries of an index of features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.index.codes import Codes, stored
from monosem.analysis.index.cooccurrence import phi
from monosem.analysis.index.example import ActivationHistogram, Example, Partner, TokenCount
from monosem.analysis.index.neuron_moments import correlation
from monosem.analysis.index.reservoir import scramble
from monosem.analysis.index.settings import INTERVALS
from monosem.analysis.scan import Rows, spread
from monosem.analysis.sources import SourceMoments

_AT_ONCE = 256


class Index:
    """Activations of a dictionary over a text, feature by feature. Made by ``build_index`` or ``open_index``.

    Large arrays of an index on disk are memory-mapped: opening is instant, and asking reads only what is asked, after
    an array was compared with its digest once.

    Attributes:
        meta: how it was made: model, hook_name, d_sae, fingerprints, settings.
        rows: the text: ``tokens`` [rows, T], ``source`` [rows, T], ``sources``; examples count in it.
        sources: names of the sources.
        tokens: scored tokens that were read, N.
        density, counts, maximum: share and number of the tokens on which each feature is active (float64, int64 [F])
            and its largest activation (fp32 [F]).
        source_counts: active tokens by source, int64 [F, sources].
        moments: sums for correlations with sources.
    """

    def __init__(
        self, meta: dict[str, Any], arrays: Mapping[str, Tensor], rows: Rows, folder: Path | None = None
    ) -> None:
        self.meta, self.rows, self.folder, self._arrays = meta, rows, folder, arrays
        self.sources: list[str] = list(meta["sources"])
        self.tokens = int(arrays["tokens"])
        self.length = int(rows.tokens.shape[1])
        self.maximum = arrays["maximum"].clone()
        self.moments = SourceMoments(0, self.sources)
        for name in ("square", "mass", "active", "tokens"):
            setattr(self.moments, name, arrays[f"moments.{name}"])
        self.source_counts = self.moments.active.long()
        self.counts = self.source_counts.sum(1)
        self.density = self.counts.double() / max(self.tokens, 1)
        self._codes: Codes | None = None
        self._views: dict[str, np.ndarray] = {}
        self._partners: tuple[int, list[list[Partner]]] = (-1, [])

    @property
    def d_sae(self) -> int:
        return len(self.counts)

    def top(self, feature: int, count: int | None = None) -> list[Example]:
        """The top activations, largest first, one per row."""
        return self._examples("top", self._known(feature))[:count]

    def random(self, feature: int, count: int | None = None) -> list[Example]:
        """A uniform sample of the active tokens, in random order."""
        return self._examples("random", self._known(feature))[:count]

    def interval(self, feature: int, i: int, count: int | None = None, intervals: int = INTERVALS) -> list[Example]:
        """Random examples with i·max/intervals < activation ≤ (i + 1)·max/intervals, in random order.

        Interval 0 is the weakest and ``intervals − 1`` holds the maximum. They come from the samples of the bins, so
        they are uniform in the interval as far as each bin has examples left, and about 10 where as many occurred.
        """
        if not 0 <= i < intervals:
            raise ValueError(f"i: got {i}; wanted 0 to {intervals - 1}")
        return self._inside(self._sampled(feature), feature, i, intervals)[:count]

    def spectrum(
        self, feature: int, per_interval: int | None = None, intervals: int = INTERVALS
    ) -> list[tuple[float, float, list[Example]]]:
        """All intervals, the strongest first: (low, high, at most ``per_interval`` random examples)."""
        sampled = self._sampled(feature)
        return [
            (*self.bounds(feature, i, intervals), self._inside(sampled, feature, i, intervals)[:per_interval])
            for i in reversed(range(intervals))
        ]

    def bounds(self, feature: int, i: int, intervals: int = INTERVALS) -> tuple[float, float]:
        """The activations between which interval ``i`` lies."""
        step = float(self.maximum[feature]) / intervals
        return i * step, (i + 1) * step

    def histogram(self, feature: int, marks: bool = False) -> ActivationHistogram:
        """Counts of the activations by source, the most frequent source first; no bins above the maximum.

        Args:
            marks: by mark instead (``meta["marks"]``); then rows need not add up, as a token may bear several marks.
        """
        feature = self._known(feature)
        counts = torch.as_tensor(self._arrays["levels.counts"][feature], device="cpu").clone()
        upper, sources = float(self._arrays["levels.upper"][feature]), len(self.sources)
        occupied = counts[:sources].sum(0).nonzero()
        bins = int(occupied.max()) + 1 if len(occupied) else 0
        upper *= bins / counts.shape[1]
        if marks:
            return ActivationHistogram(upper, list(self.meta["marks"]), counts[sources:, :bins])
        present = counts[:sources].sum(1).nonzero().flatten()
        order = present[torch.argsort(counts[present].sum(1), descending=True, stable=True)]
        return ActivationHistogram(upper, order.tolist(), counts[order, :bins])

    def top_tokens(self, feature: int, count: int | None = None) -> list[TokenCount]:
        """The tokens on which the feature fires, the commonest first."""
        feature = self._known(feature)
        rows = zip(
            *(self._view(f"words.{k}")[feature].tolist() for k in ("ids", "counts", "missed", "sums")), strict=True
        )
        ranked = sorted((row for row in rows if row[0] >= 0), key=lambda row: (-row[1], row[0]))[:count]
        return [TokenCount(i, n, m, s / n) for i, n, m, s in ranked]

    def common_tokens(self, count: int) -> tuple[Tensor, Tensor]:
        """(ids, counts) of the commonest tokens of every feature, [F, count], as in ``top_tokens``; id −1: none."""
        ids, counts = self._arrays["words.ids"].long(), self._arrays["words.counts"].long()
        order = torch.argsort(ids, dim=1, stable=True)
        order = order.gather(1, torch.argsort(counts.gather(1, order), dim=1, descending=True, stable=True))[:, :count]
        return ids.gather(1, order), counts.gather(1, order)

    def coactive(self, feature: int, count: int | None = None) -> list[Partner]:
        """The features that fire on the same tokens, by phi. See ``Cooccurrence`` for what is counted."""
        number, at = divmod(self._known(feature), _AT_ONCE)
        if self._partners[0] != number:
            self._partners = number, self._partner_block(number * _AT_ONCE)
        return self._partners[1][at][:count]

    def _partner_block(self, first: int) -> list[list[Partner]]:
        """The partners of some features at once: pages ask for one feature after the other."""
        part = slice(first, first + _AT_ONCE)
        ids, both = (self._arrays[f"partners.{k}"][part].long() for k in ("ids", "counts"))
        active = self._arrays["partners.active"]
        mine, theirs = active[part, None], active[ids.clamp_min(0)]
        scores = phi(both, mine, theirs, self.tokens)
        cosines = both / (mine * theirs).double().sqrt().clamp_min(1)
        shares = both / mine.clamp_min(1).double()
        columns = (ids, both, shares, scores, cosines)
        return [
            [Partner(*row) for row in zip(*of_feature, strict=True) if row[0] >= 0]
            for of_feature in zip(*(c.tolist() for c in columns), strict=True)
        ]

    def neuron_correlations(self, features: Tensor) -> Tensor:
        """Pearson's r of features [n] with every component of the activation they were read from: float64 [n, d_in].

        Raises:
            ValueError: the index was built with ``neurons=False``.
        """
        features, product = self._crossed(features)
        sums = self._arrays["crossed.sum"], self._arrays["crossed.square"]
        mass, square = self.moments.mass[features].sum(1), self.moments.square[features]
        return correlation(product, mass, square, *sums, self.tokens)

    def neuron_cosines(self, features: Tensor) -> Tensor:
        """Σ f·x / √(Σ f² · Σ x²) of features [n] with every component, float64 [n, d_in]. Raises as above."""
        features, product = self._crossed(features)
        scale = (self.moments.square[features][:, None] * self._arrays["crossed.square"]).sqrt()
        return torch.where(scale > 0, product.double() / scale.clamp_min(1e-300), 0.0)

    def _crossed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if "crossed.product" not in self._arrays:
            raise ValueError("neurons: this index was built with neurons=False; build it again with neurons=True")
        features = torch.as_tensor(features, device="cpu").long()
        return features, self._arrays["crossed.product"][features]

    @property
    def codes(self) -> Codes:
        """Every activation of every feature.

        Raises:
            ValueError: the index is in memory, or was built with ``codes=False``.
        """
        if self._codes is None:
            self._codes = stored(self._arrays, self.length)
        if self._codes is None:
            raise ValueError(
                "codes: this index does not hold the activations; build it on disk with codes=True "
                "(`monosem index` without --no-codes)"
            )
        return self._codes

    @property
    def stored_rows(self) -> np.ndarray:
        """The rows of the text whose every activation can be had from ``codes``: none where it does not hold them."""
        read = self.meta["rows_read"] * self.length if "codes.starts" in self._arrays else 0
        return spread(self.rows, read) if read else np.arange(0)

    def _known(self, feature: int) -> int:
        if not 0 <= feature < self.d_sae:
            raise ValueError(f"feature: got {feature}; wanted 0 to {self.d_sae - 1}")
        return int(feature)

    def _sampled(self, feature: int) -> list[Example]:
        """The samples of all bins of a feature, in their random order."""
        settings = self.meta["settings"]
        first, bins = self._known(feature) * settings["bins"], settings["bins"]
        return self._examples("levels.sample", slice(first, first + bins), 2 * settings["seed"] + 1)

    def _inside(self, examples: list[Example], feature: int, i: int, intervals: int) -> list[Example]:
        low, high = self.bounds(feature, i, intervals)
        return [e for e in examples if low < e.value and (e.value <= high or i == intervals - 1)]

    def _examples(self, part: str, at: int | slice, seed: int | None = None) -> list[Example]:
        """The examples of one list, or of several random samples together in their random order."""
        places, values = self._view(f"{part}.places")[at].ravel(), self._view(f"{part}.values")[at].ravel()
        there = places >= 0
        places, values = places[there].astype(np.int64), values[there]
        if seed is not None:
            order = np.argsort(-scramble(places, seed), kind="stable")
            values, places = values[order], places[order]
        length = self.length
        return [
            Example(place // length, place % length, value)
            for place, value in zip(places.tolist(), values.tolist(), strict=True)
        ]

    def _view(self, name: str) -> np.ndarray:
        """An array as NumPy's, whose small slices cost a tenth of a tensor's."""
        if name not in self._views:
            self._views[name] = self._arrays[name].numpy()
        return self._views[name]


@dataclass(frozen=True)
class TextRows:
    """Rows as every analysis reads them (``scan.Rows``)."""

    tokens: Tensor | np.ndarray
    source: Tensor | np.ndarray
    sources: list[str]
