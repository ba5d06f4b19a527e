"""Rows of tokens kept on disk, so that a large text is tokenized once and not at every start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from monosem.data import files, sealed
from monosem.data.token_rows import TokenRows

_RECORD = "rows.json"


def stored_rows(folder: Path, made_of: Mapping[str, Any], make: Callable[[], TokenRows]) -> TokenRows:
    """What ``make()`` gave at the first call with this folder; memory-mapped at every later one.

    In ``folder``: ``tokens.npy``, ``source.npy`` and ``rows.json``, which has the names of the sources and what the
    rows were made of, and is written last.

    Args:
        made_of: plain data that decides the rows: digests of the text and the model.

    Raises:
        ValueError: the folder holds rows of something else, or a file is damaged.
    """
    record = folder / _RECORD
    advice = f"remove the folder {str(folder)!r}, and it is made again from the text"
    if not record.is_file():
        rows = make()
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"tokens.npy": rows.tokens, "source.npy": rows.source}
        for name, tensor in arrays.items():
            files.write_array(folder / name, tensor.numpy())
        sealed.write(record, {"made_of": dict(made_of), "sources": rows.sources}, there=list(arrays))
    held, digests = sealed.read(record, "rows", f"what was written beside stored tokens ({advice})")
    if held.get("made_of") != dict(made_of):
        raise ValueError(
            f"rows: {str(folder)!r} holds the tokens of something else (made of {held.get('made_of')}); wanted "
            f"{dict(made_of)}. To use this text and model, {advice}."
        )
    mapped = {}
    for name in ("tokens.npy", "source.npy"):
        sealed.check(folder / name, digests, "rows", advice)
        # Copied where it is written to, which nothing does: PyTorch takes no read-only array.
        mapped[name] = torch.from_numpy(files.read_array(folder / name, "rows", advice, mode="c"))
    return TokenRows(mapped["tokens.npy"], mapped["source.npy"], held["sources"])
