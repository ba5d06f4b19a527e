"""The content of the report: plain data from the evaluation, the index and the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from monosem.analysis.index import ActivationHistogram, Example, Index, IndexSettings, build_index
from monosem.analysis.inputs import Subject
from monosem.analysis.logits import LogitWeights, logit_weights, used_vocabulary
from monosem.analysis.scan import Rows
from monosem.analysis.selection import Group, choose
from monosem.analysis.sources import group_sources
from monosem.analysis.windows import Window, windows
from monosem.data.counted import BY_NAME, SkipTokens
from monosem.data.norm_limit import AS_TRAINED, SkipNorm, as_trained
from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary


@dataclass(frozen=True)
class Study:
    """A text read once with a dictionary: the data of the report."""

    index: Index
    logits: LogitWeights
    groups: list[Group]
    labels: dict[str, list[int]]
    rows: Rows


def study(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    rows: Rows,
    *,
    tokens: int | None = None,
    vocabulary: Tensor | np.ndarray | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    skip_positions: int = 1,
    progress: bool = True,
    seed: int = 0,
    skip_tokens: SkipTokens = BY_NAME,
    skip_norm: SkipNorm | str = AS_TRAINED,
) -> Study:
    """Read text with a dictionary and choose what to show.

    Args:
        rows: the text that the examples come from.
        tokens: read about this many, in evenly spaced rows (default: all).
        vocabulary: token array whose entries count as used when logit weights are shown (default: ``rows.tokens``).
        labels: see :func:`monosem.analysis.sources.group_sources`.
    """
    settings = IndexSettings(
        skip_positions=skip_positions, seed=seed, neurons=False, skip_tokens=skip_tokens, skip_norm=skip_norm
    )
    index = build_index(Subject(sae, model, hook_name), rows, tokens=tokens, settings=settings, progress=progress)
    used = used_vocabulary(np.asarray(rows.tokens if vocabulary is None else vocabulary), model.d_vocab)
    logits = logit_weights(sae, model, hook_name, used)
    grouped = index.moments.telling(group_sources(rows.sources, labels))
    return Study(
        index=index, logits=logits, groups=choose(index, logits, grouped, seed=seed), labels=grouped, rows=rows
    )


def cards(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    chosen: Study,
    *,
    top: int = 8,
    intervals: int = 4,
    per_interval: int = 2,
    skip_positions: int = 1,
) -> list[dict[str, Any]]:
    """One dictionary of plain data for each chosen feature, in the order of the groups."""
    pairs: list[tuple[int, Example]] = []
    for feature in (f for group in chosen.groups for f in group.features):
        pairs += [(feature, e) for e in chosen.index.top(feature)]
        pairs += [(feature, e) for _, _, es in chosen.index.spectrum(feature, per_interval, intervals) for e in es]
    unique = list(dict.fromkeys(pairs))
    made = chosen.index.meta["settings"]
    shown = windows(
        sae,
        model,
        hook_name,
        chosen.rows,
        unique,
        skip_positions=skip_positions,
        skip_tokens=made["skip_tokens"],
        limit=as_trained(made),
    )
    by_example = dict(zip(unique, shown, strict=True))
    out = []
    for number, group in enumerate(chosen.groups):
        for feature in group.features:
            tops = _distinct([by_example[feature, e] for e in chosen.index.top(feature)], top)
            spans = [
                {"low": low, "high": high, "examples": [_window(chosen, by_example[feature, e]) for e in es]}
                for low, high, es in chosen.index.spectrum(feature, per_interval, intervals)
            ]
            out.append(
                _card(model, chosen, feature)
                | {"group": number, "top": [_window(chosen, w) for w in tops], "intervals": spans}
            )
    return out


def _distinct(candidates: list[Window], count: int) -> list[Window]:
    """The first ``count`` windows whose text differs: boilerplate repeats itself."""
    return list({w.text: w for w in reversed(candidates)}.values())[::-1][:count]


def _card(model: LanguageModel, chosen: Study, feature: int) -> dict[str, Any]:
    index, moments, logits = chosen.index, chosen.index.moments, chosen.logits
    histogram = index.histogram(feature)
    active = moments.active[feature]
    total = float(active.sum())

    def words(ids: Tensor, values: Tensor) -> list[list[Any]]:
        pairs = zip(ids[feature].tolist(), values[feature].tolist(), strict=True)
        return [[model.token_str(i), _short(v)] for i, v in pairs]

    tokens = [[model.token_str(t.token), _short(t.count / total)] for t in index.top_tokens(feature, 4)]
    columns = dict(chosen.labels) | {name: [i] for i, name in enumerate(moments.sources)}  # of equals the label wins
    r = dict(zip(columns, moments.feature_correlations(feature, columns), strict=True))
    best = max(r, key=lambda name: r[name])
    return {
        "feature": feature,
        "count": int(total),
        "density": float(index.density[feature]),
        "max": _short(float(index.maximum[feature])),
        "tokens": tokens,
        "best": {"label": best, "r": _short(r[best])},
        "shares": [[i, _short(float(active[i]) / max(total, 1))] for i in histogram.columns],
        "histogram": histogram_data(histogram),
        "positive": words(logits.top_ids, logits.top_values),
        "negative": words(logits.bottom_ids, logits.bottom_values),
    }


def histogram_data(histogram: ActivationHistogram) -> dict[str, Any]:
    """A histogram as plain data."""
    return {"upper": _short(histogram.upper), "sources": histogram.columns, "counts": histogram.counts.tolist()}


def _window(chosen: Study, window: Window) -> dict[str, Any]:
    pieces = [
        [p.text, _short(p.value), *([[[t, _short(v)] for t, v in p.tokens]] if len(p.tokens) > 1 else [])]
        for p in window.pieces
    ]
    focus = next(i for i, p in enumerate(window.pieces) if p.focus)
    return {
        "source": chosen.rows.sources.index(window.source),
        "value": _short(window.value),
        "rtl": window.right_to_left,
        "focus": focus,
        "pieces": pieces,
    }


def overview(chosen: Study) -> dict[str, Any]:
    """Every feature as a point: density, the source it correlates best with, and how well."""
    r = chosen.index.moments.correlations({name: [i] for i, name in enumerate(chosen.index.moments.sources)})
    best = r.max(1)
    return {
        "count": chosen.index.counts.tolist(),
        "source": best.indices.tolist(),
        "r": [round(v, 3) for v in best.values.tolist()],
        "tokens": chosen.index.tokens,
    }


def _short(value: float) -> float:
    """Four significant digits: enough to show, a third of the bytes."""
    return float(f"{value:.4g}")
