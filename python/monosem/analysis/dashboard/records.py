"""The data of one feature's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.dashboard.feature_table import FeatureTable
from monosem.analysis.index import ActivationHistogram, Example, Index
from monosem.analysis.windows import TextCache, Window, stored_window
from monosem.data.protocols import LanguageModel, of_texts

BEFORE, AFTER = 24, 14  # most tokens of a window on either side of the one it is about
CHARACTERS = (48, 28)  # and most characters
TEXT, TITLE = 320, 60  # most characters of a text that has one vector: as an example, and in the list


@dataclass(frozen=True)
class Counts:
    """How many examples a feature's page shows: top activations, per interval (of 11), at random."""

    top: int
    per_interval: int
    random: int

    @classmethod
    def for_width(cls, d_sae: int) -> "Counts":
        """Fewer where there are very many features: the pages of 131,072 still fit into half a gigabyte."""
        return cls(12, 3, 6) if d_sae <= 32_768 else cls(8, 1, 3)


class Records:
    """Makes the record of a feature. See ``record`` for its keys.

    Args:
        marks: {name: bool [rows, T]}, kinds of token by which histograms can be coloured, next to the sources;
            a token of several kinds counts for the first.
        following: {feature: [(feature, figure), …]}, the automaton links.
    """

    def __init__(
        self,
        model: LanguageModel,
        index: Index,
        table: FeatureTable,
        counts: Counts,
        marks: Mapping[str, np.ndarray] | None = None,
        following: Mapping[int, Sequence[tuple[int, float]]] | None = None,
    ) -> None:
        self.texts, self.index, self.table, self.counts = TextCache(model), index, table, counts
        self.marks = {name: np.asarray(mark, dtype=bool).reshape(-1) for name, mark in (marks or {}).items()}
        self.following = following or {}
        self.codes = index.codes
        self.bos = model.token_str(model.bos_id)
        self.of_texts = of_texts(model)

    def window(self, feature: int, example: Example) -> Window:
        """An example in context, from the stored activations; or the beginning of a text that has one vector."""
        if self.of_texts:
            window = stored_window(self.index, self.texts, feature, example, 0, 0, CHARACTERS)
            (piece,) = window.pieces
            return replace(window, pieces=(piece._replace(text=beginning(piece.text, TEXT)),))
        return stored_window(self.index, self.texts, feature, example, BEFORE, AFTER, CHARACTERS)

    def top(self, feature: int) -> list[Window]:
        """The top activations whose texts differ: boilerplate repeats itself."""
        by_text: dict[str, Window] = {}
        for example in self.index.top(feature):
            window = self.window(feature, example)
            by_text.setdefault(window.text, window)
            if len(by_text) == self.counts.top:
                break
        return list(by_text.values())

    def record(self, feature: int, top: list[Window]) -> dict[str, Any]:
        """The record.

        ``f`` number, ``n`` active tokens, ``max``, ``mean`` of its activations, ``h`` histogram by source, ``k`` by
        mark, ``t`` tokens (id, count, mean), ``p`` and ``q`` positive and negative logit weights (id, weight), ``r``
        sources (number, correlation), ``nb`` neighbours (feature, cosine), ``co`` co-firing features (feature, share,
        phi), ``nn`` neurons (number, correlation), ``next`` automaton links (feature, figure); ``ex`` examples:
        ``top``, ``iv`` [low, high, examples] from the strongest interval down, ``rnd``. ``p`` and ``q`` are missing
        without logit weights, ``t`` where each text has one vector.
        """
        index, table = self.index, self.table
        n = int(index.counts[feature])
        base: dict[str, Any] = {"f": feature, "n": n, "max": short(float(index.maximum[feature]))}
        base |= self._weights(feature)
        if not n:
            return base
        r = table.source_r[feature]
        best = torch.argsort(r, descending=True, stable=True)[:4].tolist()
        show = lambda examples: [pack(self.window(feature, e), index.sources, self.bos) for e in examples]
        spans = index.spectrum(feature, self.counts.per_interval)
        return base | {
            "mean": short(float(index.moments.mass[feature].sum()) / n),
            "h": histogram(index.histogram(feature)),
            "k": self._marked(feature),
            "t": None if self.of_texts else [[t.token, t.count, short(t.mean)] for t in index.top_tokens(feature, 12)],
            "r": [[s, short(float(r[s]), 3)] for s in best if r[s] > 0],
            "co": [[p.feature, short(p.share, 3), short(p.phi, 3)] for p in index.coactive(feature, 8)],
            "nn": None
            if table.neurons is None or table.correlations is None
            else pairs(table.neurons, table.correlations, feature),
            "next": [[int(g), short(v, 3)] for g, v in self.following.get(feature, ())],
            "ex": {
                "top": [pack(w, index.sources, self.bos) for w in top],
                "iv": [[short(low), short(high), show(es)] for low, high, es in spans],
                "rnd": show(index.random(feature, self.counts.random)),
            },
        }

    def _weights(self, feature: int) -> dict[str, Any]:
        logits, table = self.table.logits, self.table
        weights = (
            {}
            if logits is None
            else {
                "p": pairs(logits.top_ids, logits.top_values, feature),
                "q": pairs(logits.bottom_ids, logits.bottom_values, feature),
            }
        )
        return weights | {
            "nb": [[g, c] for g, c in pairs(table.neighbours, table.cosines, feature) if c > 0],
        }

    def _marked(self, feature: int) -> dict[str, Any] | None:
        """Histogram by mark: [marks, bins]; a token that bears several counts for the first of them alone."""
        if not self.marks:
            return None
        whole = self.index.histogram(feature)
        bins = whole.counts.shape[1]
        places, values = self.codes.of(feature)
        bin = np.minimum((values / whole.upper * bins).astype(np.int64), bins - 1)
        counts, free = [], np.ones(len(places), dtype=bool)
        for mark in self.marks.values():
            mine = free & mark[places]
            counts.append(np.bincount(bin[mine], minlength=bins))
            free &= ~mine
        shown = [i for i, c in enumerate(counts) if c.any()]
        shown.sort(key=lambda i: -int(counts[i].sum()))
        return {"upper": short(whole.upper), "sources": shown, "counts": [counts[i].tolist() for i in shown]}


def histogram(stored: ActivationHistogram) -> dict[str, Any]:
    """A histogram as plain data."""
    return {"upper": short(stored.upper), "sources": stored.columns, "counts": stored.counts.tolist()}


def pairs(ids: Tensor, values: Tensor, feature: int) -> list[list[Any]]:
    return [[i, short(v)] for i, v in zip(ids[feature].tolist(), values[feature].tolist(), strict=True)]


def beginning(text: str, most: int) -> str:
    """The text up to so many characters, cut between words where it can be."""
    if len(text) <= most:
        return text
    kept = text[: most - 1]
    words = kept.rstrip().rpartition(" ")[0] if not text[most - 1].isspace() else kept
    return (words if len(words) > most // 2 else kept).rstrip() + "…"


def pack(window: Window, sources: Sequence[str], bos: str) -> list[Any]:
    """[source, value, right to left, focus, pieces]; neighbouring silent pieces are one, but BOS stays apart.

    A piece is [text, value, tokens], the tokens only where several make one character.
    """
    pieces: list[list[Any]] = []
    focus = 0
    joins = False  # whether a silent piece may join the one before it
    for piece in window.pieces:
        silent = piece.value <= 0 and not piece.focus
        if silent and joins and piece.text != bos:
            pieces[-1][0] += piece.text
            continue
        if piece.focus:
            focus = len(pieces)
        pieces.append([piece.text, short(piece.value)])
        if len(piece.tokens) > 1 and not silent:
            pieces[-1].append([[t, short(v)] for t, v in piece.tokens])
        joins = silent and piece.text != bos
    return [sources.index(window.source), short(window.value), int(window.right_to_left), focus, pieces]


def short(value: float, digits: int = 4) -> float:
    """A few significant digits: enough to show, a third of the bytes."""
    return value and float(f"{value:.{digits}g}")
