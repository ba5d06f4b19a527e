"""A map of the decoder directions of several dictionaries, with their clusters and in one order, as the paper draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monosem.analysis.evidence.arrangement import arrange
from monosem.analysis.inputs import Subject
from monosem.analysis.logit_table import LogitTable
from monosem.analysis.sources import SourceMoments

FEWEST = 4
_EDGES = 60_000  # most links between dots that a page carries, the closest first


def feature_map(
    subjects: Sequence[Subject],
    moments: Sequence[SourceMoments],
    tables: Sequence[LogitTable],
    edges: Sequence[Any],
    min_tokens: int,
    family: Sequence[tuple[int, int]],
    words: int = 4,
) -> dict[str, Any] | None:
    """One dot per feature that fires on at least ``min_tokens`` tokens: its place and figures.

    None where fewer than ``FEWEST`` do, which make no map.

    Columns: ``x``, ``y`` (0 … 10,000), ``level`` (which dictionary), ``feature``, ``density`` (log10), ``source`` (the
    most frequent on its tokens) with ``share`` (%), ``raised`` (numbers of ``vocabulary``) and ``cluster`` (−1: in
    none). Beside them ``order``, the dots as they come along the line; ``family``, those of the chosen feature; and
    ``edges``: [dot, dot, masked cosine · 100].
    """
    columns: dict[str, list[Any]] = {k: [] for k in ("level", "feature", "density", "source", "share", "raised")}
    dots: list[dict[int, int]] = []
    directions = []
    seen: dict[int, int] = {}
    for level, (subject, m, table) in enumerate(zip(subjects, moments, tables, strict=True)):
        kept = (m.counts >= min_tokens).nonzero().flatten()
        dots.append({f: len(columns["level"]) + i for i, f in enumerate(kept.tolist())})
        directions.append(torch.nn.functional.normalize(subject.sae.W_dec.detach()[kept].float().cpu(), dim=1))
        active = m.active[kept]
        top, source = active.max(1)
        columns["level"] += [level] * len(kept)
        columns["feature"] += kept.tolist()
        columns["density"] += [round(v, 2) for v in (m.counts[kept] / m.tokens.sum()).log10().tolist()]
        columns["source"] += source.tolist()
        columns["share"] += (100 * top / m.counts[kept]).round().int().tolist()
        for part in kept.split(1024):
            best = table.rows(part).topk(min(words, len(table.ids)), dim=1).indices
            for row in table.ids[best].tolist():
                columns["raised"].append([seen.setdefault(token, len(seen)) for token in row])
    if len(columns["level"]) < FEWEST:
        return None
    arrangement = arrange(torch.cat(directions).numpy(), len(subjects))
    places = (arrangement.places * 10_000).round().astype(int)
    links = []
    for level, e in enumerate(edges):
        rows = zip(e.parent.tolist(), e.child.tolist(), (100 * e.masked).round().int().tolist(), strict=True)
        links += [[dots[level][p], dots[level + 1][c], cosine] for p, c, cosine in rows]
    links.sort(key=lambda edge: -edge[2])
    return columns | {
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "cluster": arrangement.cluster.tolist(),
        "order": arrangement.order.tolist(),
        "vocabulary": [subjects[0].model.token_str(token) for token in seen],
        "sources": list(moments[0].sources),
        "family": [dots[level][f] for level, f in family if f in dots[level]],
        "edges": links[:_EDGES],
        "edges_left_out": max(0, len(links) - _EDGES),
    }
