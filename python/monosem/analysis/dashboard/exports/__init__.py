"""Export of features in the formats of other dashboards."""

from __future__ import annotations

from pathlib import Path

from monosem.analysis.index import Index, check_subject
from monosem.analysis.inputs import Subject

FORMATS = ("neuronpedia", "saedashboard")


def export(
    kind: str, subject: Subject, index: Index, folder: str | Path, *, min_tokens: int = 1, progress: bool = True
) -> Path:
    """Write all features that fire at least ``min_tokens`` times; returns the folder that was written.

    ``"saedashboard"``: ``run_settings.json`` and ``batch-N.json``, as SAEDashboard writes them for Neuronpedia.
    ``"neuronpedia"``: ``v1/MODEL/SOURCE/…`` of gzipped JSON lines, as Neuronpedia exports and imports them.

    Raises:
        ValueError: an unknown format, an index of another dictionary, or one without activations.
    """
    from monosem.analysis.dashboard.exports import neuronpedia, saedashboard
    from monosem.analysis.dashboard.exports.feature_rows import FeatureRows

    if kind not in FORMATS:
        raise ValueError(f"export: got {kind!r}; wanted one of {', '.join(FORMATS)}")
    check_subject(index.meta, subject, "index: it")
    rows = FeatureRows(subject, index, min_tokens, progress)
    return (neuronpedia if kind == "neuronpedia" else saedashboard).write(rows, Path(folder))
