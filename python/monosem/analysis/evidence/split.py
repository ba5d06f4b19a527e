"""Feature splitting: what becomes of a feature when the dictionary grows.

*Towards Monosemanticity*, "Feature Splitting": features of a larger dictionary refine those of a smaller one (base64: 1
of 512, 3 of 4,096, many of 16,384). Two features are joined where their masked cosine similarity exceeds 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from monosem.analysis.cross_products import CrossProducts
from monosem.analysis.evidence.proxies.labelled import LabelMoments
from monosem.analysis.evidence.split_edges import (
    THRESHOLD,
    Edges,
    Step,
    closest,
    entries_of,
    join,
    step_between,
)
from monosem.analysis.evidence.split_features import described, fire_mostly_on
from monosem.analysis.inputs import Subject
from monosem.analysis.logit_table import LogitTable
from monosem.analysis.logits import used_vocabulary
from monosem.analysis.peaks import Peaks
from monosem.analysis.scan import Rows, blocks, shared_limit, spread
from monosem.analysis.sources import SourceMoments, all_groups, named, paper_groups, sources_read
from monosem.data.protocols import check_suits


@dataclass(frozen=True)
class Level:
    """One dictionary of the row. ``label_features``: those that fire on the label at least half of the time."""

    name: str
    d_sae: int
    alive: int
    compared: int
    label_features: int
    label_best: int
    label_correlation: float


@dataclass(frozen=True)
class Splitting:
    """The result of :func:`measure`; ``to_dict`` leaves out the tensors of the edges.

    ``nodes`` and ``links``: the family of the chosen feature, those whose closest parent is in it (``omitted`` more are
    left out). ``listed``: the features of each dictionary that fire mostly on the label, whoever their parent is, those
    with most tokens first (``unlisted``: how many more of each dictionary). ``joined``: how many features of each
    dictionary are joined to a member of the one before, the closest parent or not.
    """

    model: str
    hook_name: str
    tokens: int
    threshold: float
    least: int
    label: str
    levels: tuple[Level, ...]
    steps: tuple[Step, ...]
    nodes: tuple[dict[str, Any], ...]
    links: tuple[dict[str, Any], ...]
    omitted: int
    listed: tuple[dict[str, Any], ...]
    unlisted: tuple[int, ...]
    joined: tuple[int, ...]
    map: dict[str, Any] | None
    edges: tuple[Edges, ...] = field(repr=False, compare=False)
    sources: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "edges"}
        return plain | {name: [asdict(part) for part in getattr(self, name)] for name in ("levels", "steps")}

    @property
    def family(self) -> tuple[int, ...]:
        """How many features of each dictionary the chosen one became."""
        return tuple(sum(n["level"] == i for n in self.nodes) for i in range(len(self.levels)))

    def table(self) -> str:
        """The figures for the terminal."""
        root = next(n for n in self.nodes if n["level"] == 0)
        lines = [
            f"{self.tokens:,} tokens; features that fire on at least {self.least} of them; joined above a masked "
            f"cosine of {self.threshold:g}",
            f"{'dictionary':28} {'features':>8} {'alive':>8}  family   joined  "
            + (f"mostly {self.label}" if self.label else ""),
        ]
        for level, family, joined in zip(self.levels, self.family, self.joined, strict=True):
            mostly = f"{level.label_features:>8}" if self.label else ""
            counts = f"{level.d_sae:>8,} {level.alive:>8,}  {family:>6}   {joined:>6}  {mostly}"
            lines.append(f"{level.name[-28:]:28} {counts}")
        lines.append(f"begun from #{root['feature']}" + (f"; {self.omitted} more are left out" if self.omitted else ""))
        for a, b, step in zip(self.levels, self.levels[1:], self.steps, strict=False):
            split = sum(step.children[2:])
            lines.append(
                f"{a.d_sae:,} → {b.d_sae:,}: {step.edges:,} joined pairs; {split:,} features become several, "
                f"{step.children[1]:,} one, {step.children[0]:,} none; {step.orphans:,} have no parent, "
                f"{step.several_parents:,} several; the closest also has the nearest decoder for {step.agreed:.0%}"
            )
        return "\n".join(lines)


@torch.no_grad()
def measure(
    subjects: Sequence[Subject],
    rows: Rows,
    *,
    label: str | None = None,
    feature: int | None = None,
    names: Sequence[str] = (),
    tokens: int | None = None,
    threshold: float = THRESHOLD,
    min_tokens: int = 20,
    max_children: int = 24,
    max_listed: int = 40,
    umap: bool = True,
    skip_positions: int = 1,
    contexts: int = 16,
    memory: int = 1 << 30,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Splitting:
    """Join the features of dictionaries of growing width, and follow one of them.

    Args:
        subjects: of one model and hook, the smallest first.
        label: begin from the feature of the first that stands for this label (``proxies.LabelMoments``; ``all_groups``:
            each source is one). Default: base64, as the paper does, where the text has it; else the label that a
            feature of the first follows best; where none is followed, the feature of the first that fires most.
        feature: begin from this feature of the first instead.
        tokens: read about so many, in evenly spaced rows (default: all).
        threshold: masked cosine above which two features are joined.
        min_tokens: features of fewer active tokens are left out (the paper leaves out the ultralow-density ones).
        max_children: of the children that one dictionary adds to the family, at most so many are followed, the closest.
        max_listed: of the features of one dictionary that fire mostly on the label, at most so many are listed.
        umap: also arrange the decoder directions of all: map, clusters, order (``arrangement.arrange``).
        memory, folder: as in ``CrossProducts``.

    Raises:
        ValueError: fewer than two dictionaries, of different hooks, no text of the label, no such feature, or a model
            that predicts no next token.
        ImportError: ``umap`` without umap-learn or scikit-learn.
    """
    for subject in subjects:
        check_suits(subject.model, "split: features are shown with logit weights", predicts=True)
    names = list(names) or [f"{s.sae.cfg.d_sae:,} features" for s in subjects]
    groups = _checked(subjects, names, rows, label, feature)
    if umap:
        from monosem.analysis.evidence.arrangement import need_packages

        need_packages()
    select = spread(rows, tokens)
    read = [
        blocks(
            s.sae,
            s.model,
            s.hook_name,
            rows,
            select=select,
            contexts=contexts,
            skip_positions=skip_positions,
            progress="reading" if progress and i == len(subjects) - 1 else None,
            limit=shared_limit([each.sae for each in subjects]),
        )
        for i, s in enumerate(subjects)
    ]
    moments = [SourceMoments(s.sae.cfg.d_sae, rows.sources) for s in subjects]
    peaks = [Peaks(s.sae.cfg.d_sae) for s in subjects]
    candidates = {} if feature is not None else _labels(rows.sources, groups, label)
    of_labels = LabelMoments(subjects[0].sae.cfg.d_sae, subjects[0].model, rows, candidates)
    sums = [CrossProducts(a.sae.cfg.d_sae, b.sae.cfg.d_sae, 3, memory, folder) for a, b in pairwise(subjects)]
    try:
        for level in zip(*read, strict=True):
            for m, p, block in zip(moments, peaks, level, strict=True):
                m.update(block)
                p.update(block)
            of_labels.update(level[0])
            for s, a, b in zip(sums, level, level[1:], strict=False):
                s.update(entries_of(a, parent=True), entries_of(b, parent=False), len(a.x))
        joining = "joining" if progress else None
        edges = tuple(
            join(s, moments[i : i + 2], subjects[i : i + 2], threshold, min_tokens, joining) for i, s in enumerate(sums)
        )
    finally:
        for s in sums:
            s.close()
    label, root = ("", feature) if feature is not None else _root(moments[0], of_labels, label)
    nodes, links, omitted, joined = _family(root, edges, max_children)
    used = used_vocabulary(torch.as_tensor(rows.tokens, device="cpu"), subjects[0].model.d_vocab)
    tables = [LogitTable(s.sae, s.model, s.hook_name, used, memory // 2) for s in subjects]
    members = groups[label] if label else []
    mostly = [fire_mostly_on(m, members, min_tokens) for m in moments]
    listed = [(level, f) for level, features in enumerate(mostly) for f in features[:max_listed]]
    shown = described([*nodes, *listed], subjects, moments, peaks, tables, rows, select, members, skip_positions)
    levels = tuple(
        _level(n, s, m, members, min_tokens, label, len(own))
        for n, s, m, own in zip(names, subjects, moments, mostly, strict=True)
    )
    feature_map_ = None
    if umap:
        from monosem.analysis.evidence.feature_map import feature_map

        feature_map_ = feature_map(subjects, moments, tables, edges, min_tokens, nodes)
    steps = tuple(step_between(e, moments[i : i + 2], subjects[i : i + 2], min_tokens) for i, e in enumerate(edges))
    first = subjects[0]
    return Splitting(
        model=first.model.name,
        hook_name=first.hook_name,
        tokens=int(moments[0].tokens.sum()),
        threshold=threshold,
        least=min_tokens,
        label=label,
        levels=levels,
        steps=steps,
        nodes=tuple(shown[node] for node in nodes),
        links=links,
        omitted=omitted,
        listed=tuple(shown[node] for node in listed),
        unlisted=tuple(len(features[max_listed:]) for features in mostly),
        joined=joined,
        map=feature_map_,
        edges=edges,
        sources=tuple(sources_read(rows)),
    )


def _checked(
    subjects: Sequence[Subject], names: Sequence[str], rows: Rows, label: str | None, feature: int | None
) -> dict[str, list[int]]:
    if len(subjects) < 2 or len(names) != len(subjects):
        raise ValueError(
            f"subjects: got {len(subjects)} dictionaries and {len(names)} names; wanted two or more of each"
        )
    first = subjects[0]
    for s, name in zip(subjects, names, strict=True):
        if (s.model.name, s.hook_name) != (first.model.name, first.hook_name):
            raise ValueError(
                f"subjects: {name} is of {s.hook_name} of {s.model.name}, the first of {first.hook_name} of "
                f"{first.model.name}; wanted dictionaries of one hook of one model"
            )
    widths = [s.sae.cfg.d_sae for s in subjects]
    if widths != sorted(widths):
        raise ValueError(f"subjects: got widths {', '.join(map(str, widths))}; wanted the smallest first")
    groups = all_groups(rows.sources)
    if feature is None and label is not None:
        named(label, groups)
    if feature is not None and not 0 <= feature < widths[0]:
        raise ValueError(f"feature: got {feature}; wanted 0 to {widths[0] - 1}, a feature of the first dictionary")
    return groups


def _labels(sources: Sequence[str], groups: dict[str, list[int]], label: str | None) -> dict[str, list[int]]:
    """The labels from one of which to begin."""
    if label is not None:
        label = named(label, groups)
        return {label: groups[label]}
    known = paper_groups(sources)
    return {k: m for k, m in known.items() if k == "base64"} or known or groups


def _root(moments: SourceMoments, of_labels: LabelMoments, asked: str | None) -> tuple[str, int]:
    """(label, feature) from which to begin; the label is "" where none is followed and none was asked for."""
    found = [moments.describe(k, of_labels.groups[k], f) for k, f in of_labels.features(moments).items()]
    if asked is not None and not found:
        raise ValueError(
            f"label: no feature of the first dictionary follows {asked!r} on this text; wanted a label that one "
            "follows, or a feature by its number (feature=, --feature)"
        )
    best = max(found, key=lambda b: b.correlation, default=None)
    return ("", int(moments.counts.argmax())) if best is None else (best.label, best.feature)


def _family(
    root: int, edges: Sequence[Edges], max_children: int
) -> tuple[list[tuple[int, int]], tuple[dict[str, Any], ...], int, tuple[int, ...]]:
    """(level, feature) of the root and what it became; the links; how many were left out; how many are joined.

    A feature belongs to the family if its closest parent does. Links to other members are kept, where joined.
    """
    nodes, links, omitted, joined, current = [(0, root)], [], 0, [1], [root]
    for level, e in enumerate(edges):
        mine = torch.isin(e.parent, torch.tensor(current, dtype=torch.int64, device="cpu"))
        joined.append(len(e.child[mine].unique()))
        nearest = closest(e)
        nearest = nearest[mine[nearest]]
        heirs = dict(zip(e.child[nearest].tolist(), e.masked[nearest].tolist(), strict=True))
        kept = sorted(heirs, key=lambda c: (-heirs[c], c))[:max_children]
        omitted += len(heirs) - len(kept)
        known = set(kept)
        columns = e.parent[mine].tolist(), e.child[mine].tolist(), e.masked[mine].tolist(), e.decoder[mine].tolist()
        links += [
            {"level": level, "parent": p, "child": c, "masked": m, "decoder": d}
            for p, c, m, d in zip(*columns, strict=True)
            if c in known
        ]
        nodes += [(level + 1, c) for c in kept]
        current = kept
    return nodes, tuple(links), omitted, tuple(joined)


def _level(
    name: str,
    subject: Subject,
    m: SourceMoments,
    members: Sequence[int],
    min_tokens: int,
    label: str,
    label_features: int,
) -> Level:
    counts = m.counts
    best, r = -1, 0.0
    if members:
        correlations = m.correlations({label: members})[:, 0]
        best, r = int(correlations.argmax()), float(correlations.max())
    return Level(
        name=name,
        d_sae=subject.sae.cfg.d_sae,
        alive=int((counts > 0).sum()),
        compared=int((counts >= min_tokens).sum()),
        label_features=label_features,
        label_best=best,
        label_correlation=r,
    )
