"""The index that a line of evidence reads: the one beside the dictionary, or one made for the occasion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monosem.analysis.inputs import Subject


def index_of(
    subject: Subject,
    folder: str | Path | None,
    text: str = "sample",
    split: str = "all",
    tokens: int | None = 200_000,
    progress: bool = True,
    context: int | None = None,
) -> Any:
    """``folder/index`` if `monosem index` has written it; else one pass over about ``tokens`` tokens, kept in memory.

    Raises:
        ValueError: the index there is of another dictionary.
    """
    from monosem.analysis.index import IndexSettings, build_index, open_index
    from monosem.analysis.inputs import load_rows

    if folder is not None and (Path(folder) / "index" / "index.json").is_file():
        return open_index(Path(folder) / "index", subject)
    rows = load_rows(subject.model, text, split, context)
    return build_index(
        subject, rows, tokens=tokens, settings=IndexSettings(neurons=False, codes=False), progress=progress
    )
