"""What the features of a family are shown by: figures, the tokens they fire on, examples; and those of a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monosem.analysis.evidence.summaries import summaries
from monosem.analysis.inputs import Subject
from monosem.analysis.logit_table import LogitTable
from monosem.analysis.peaks import Peaks
from monosem.analysis.scan import Rows
from monosem.analysis.sources import SourceMoments

_ROWS = 192


def described(
    nodes: Sequence[tuple[int, int]],
    subjects: Sequence[Subject],
    moments: Sequence[SourceMoments],
    peaks: Sequence[Peaks],
    tables: Sequence[LogitTable],
    rows: Rows,
    select: np.ndarray,
    members: Sequence[int],
    skip_positions: int,
) -> dict[tuple[int, int], dict[str, Any]]:
    """Figures and summaries of each (level, feature).

    Summaries are read from ``_ROWS`` rows with most of the label, if there is one, and from those on which one of the
    features of the level is strongest: a member of the family may never fire on the label.
    """
    inside = np.isin(np.asarray(rows.source)[select], list(members)).mean(1) if members else np.ones(len(select))
    order = np.argsort(-inside, kind="stable")[:_ROWS]
    near = select[order]
    out = {}
    for level, (subject, m, p, table) in enumerate(zip(subjects, moments, peaks, tables, strict=True)):
        features = sorted({f for where, f in nodes if where == level})
        strongest = p.row[features].numpy()
        read = np.union1d(near, strongest[strongest >= 0])
        seen = summaries(subject, rows, features, table, read, skip_positions=skip_positions) if features else {}
        for f in features:
            active = m.active[f]
            source = int(active.argmax())
            figures = m.describe("", members, f) if members else None
            out[level, f] = {
                "level": level,
                "feature": f,
                "tokens": int(active.sum()),
                "density": float(active.sum() / m.tokens.sum()),
                "source": rows.sources[source],
                "share": float(active[source] / active.sum().clamp_min(1)),
                "precision": figures.precision if figures else None,
                "recall": figures.recall if figures else None,
                "correlation": figures.correlation if figures else None,
                **seen[f],
            }
    return out


def fire_mostly_on(m: SourceMoments, members: Sequence[int], min_tokens: int) -> list[int]:
    """The features of whose tokens at least half are of a label, of those that fire often enough: most tokens first."""
    if not members:
        return []
    counts = m.counts
    precision = m.active[:, list(members)].sum(1) / counts.clamp_min(1)
    features = ((precision >= 0.5) & (counts >= min_tokens)).nonzero().flatten().tolist()
    return sorted(features, key=lambda f: (-float(counts[f]), f))
