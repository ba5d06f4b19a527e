"""The text that ships with monosem: for the demo, for examples and for a first look at any model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from monosem.data.documents import Documents
from monosem.data.text import AnyDocument, Document


def sample_documents(split: str = "train") -> list[Document]:
    """The shipped documents, each labelled with its source (``en_prose``, ``ar_ui``, ``dna``, ``base64``, …).

    Args:
        split: ``"train"``, ``"held_out"`` (2 % of the documents of every source, always the same ones) or ``"all"``.

    Raises:
        ValueError: another split.
    """
    return cast("list[Document]", load_documents("sample", split))


def load_documents(text: str | Path = "sample", split: str = "train") -> list[AnyDocument]:
    """The documents of a JSON-lines file, of another text, or of the shipped one (``"sample"``), for one split.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another split, a line that is no document, or no document at all.
    """
    return list(stream_documents(text, split))


def stream_documents(text: Any = "sample", split: str = "train") -> Iterator[AnyDocument]:
    """``load_documents``, one after the other: a file is never held. ``data/documents.py`` says what a text may be.

    Raises:
        ValueError: as ``load_documents``, or a dataset without a known end, of which a part has to be chosen.
    """
    documents = Documents(text, split)
    if not documents.has_known_end:
        raise ValueError(
            f"text: {str(documents.spec)!r} is fetched as it is read and may not end for days; wanted a part of it. "
            "Give ?rows=N (the first N rows), or ?streaming=false to fetch all of it first; `monosem train --stream` "
            "trains on it as it comes."
        )
    any_at_all = False
    for document in documents:
        any_at_all = True
        yield document
    if not any_at_all:
        raise ValueError(
            f"text: {str(text)!r} holds no document for split {split!r}; wanted at least one JSON line with a 'text'"
            + (" (2 in a source, to hold one out). Use split 'all'." if split == "held_out" else "")
        )


def documents(text: Any = "sample", split: str = "all", *, column: str = "text", source: str = "source") -> Documents:
    """The documents of a text, for ``pack_rows``: read anew each time they are iterated over, and never held.

    Args:
        text: ``"sample"``; JSON lines, Parquet, plain text or an array of tokens, packed or not; a folder or a pattern
            of such files; ``"hf:NAME?name=CONFIGURATION&split=SPLIT"``; or a dataset of Hugging Face's library, in
            memory or a stream. ``FILE?column=NAME&source=NAME&rows=N`` names columns, and reads the first N rows.
        split: ``"train"``, ``"held_out"`` (2 %) or ``"all"``.
        column, source: of a dataset in memory.

    Raises:
        FileNotFoundError, ValueError, ImportError: as ``data.documents.Documents``.
    """
    return Documents(text, split, column, source)
