"""The documents of any text: part after part (file after file), from any row on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosem.data import files, fingerprint
from monosem.data.csv_files import read_csv
from monosem.data.hub_datasets import is_dataset, open_dataset, read_dataset
from monosem.data.jsonl import read_jsonl
from monosem.data.parquet import read_parquet
from monosem.data.plain_text import read_plain_text
from monosem.data.records import DEFAULT_SOURCE
from monosem.data.text import AnyDocument, TokenDocument, held_out_places
from monosem.data.text_files import kind_of, paths_of
from monosem.data.text_spec import SAMPLE, TextSpec, parse

SPLITS = ("train", "held_out", "all")
NTH, HELD = 50, 25  # of every 50 rows, number 25 is held out

Rows = Iterator[tuple[int, "AnyDocument | None"]]


@dataclass(frozen=True)
class Part:
    """A file or a dataset. ``read(first)`` gives (row, document) from row ``first`` on; a row may hold no document."""

    name: str
    read: Callable[[int], Rows]


class Documents:
    """The documents of a split of a text.

    Of one JSON-lines file (and of the shipped text), 2 % of the documents of each source are held out, evenly spaced:
    the file is read once to count them. Of anything else, row 25 of every 50 of each file or dataset: it is not
    read twice, however long it is.

    Args:
        text: see ``text_spec.TextSpec``; or a ``Dataset`` or ``IterableDataset`` of Hugging Face's library.
        split: ``"train"``, ``"held_out"`` or ``"all"``.
        column, source: of a dataset in memory; those of a text are in its name.

    Attributes:
        parts: files or datasets, in their order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another split, or a text that cannot be read.
        ImportError: a package that the text needs is not installed.
    """

    def __init__(self, text: Any = SAMPLE, split: str = "all", column: str = "text", source: str = "source") -> None:
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}; wanted 'train', 'held_out' or 'all'")
        self.split, self._held = split, None
        self._dataset: Any = None
        if is_dataset(text):
            self.spec = TextSpec("a dataset in memory", column, source)
            self._dataset = text
        else:
            self.spec = parse(text)
        self._single: Path | None = None  # a file of JSON lines
        self.parts = self._open()

    def _open(self) -> list[Part]:
        spec = self.spec
        if self._dataset is None and spec.of_hub:
            self._dataset = open_dataset(spec)
        if self._dataset is not None:
            where = str(spec)
            return [Part(where, lambda first: read_dataset(self._dataset, where, spec.column, spec.source, first))]
        paths = paths_of(spec)
        parts = [_part(path, spec) for path in paths]
        if len(paths) == 1 and kind_of(paths[0]) == ".jsonl":
            self._single = paths[0]
        return parts

    @property
    def has_known_end(self) -> bool:
        """False for a dataset that is fetched as it is read, of which nobody may want all."""
        return self._dataset is None or self.spec.rows is not None or hasattr(self._dataset, "__len__")

    def __iter__(self) -> Iterator[AnyDocument]:
        for _, _, document in self.read():
            yield document

    def read(
        self, part: int = 0, row: int = 0, order: Sequence[int] | None = None
    ) -> Iterator[tuple[int, int, AnyDocument]]:
        """(part, row, document) of the split from this row of this part on.

        Args:
            part: its place in the order.
            order: the numbers of the parts in the order in which they are read; None: 0, 1, …
        """
        order = range(len(self.parts)) if order is None else order
        for place in range(part, len(order)):
            for number, document in self._rows(self.parts[order[place]], row if place == part else 0):
                yield place, number, document

    def _rows(self, part: Part, first: int) -> Iterator[tuple[int, AnyDocument]]:
        by_source = self._single is not None and self.split != "all"
        seen: Counter[str] = Counter()
        for row, document in part.read(0 if by_source else first):
            if self.spec.rows is not None and row >= self.spec.rows:
                return
            if document is None:
                continue
            if by_source:
                held = seen[document.source] in self._held_out().get(document.source, ())
                seen[document.source] += 1
            else:
                held = row % NTH == HELD
            if row >= first and (self.split == "all" or held == (self.split == "held_out")):
                yield row, document

    def _held_out(self) -> dict[str, set[int]]:
        if self._held is None:
            counts: Counter[str] = Counter()
            for row, document in self.parts[0].read(0):
                if self.spec.rows is not None and row >= self.spec.rows:
                    break
                if document is not None:
                    counts[document.source] += 1
            self._held = held_out_places(counts)
        return self._held

    def fingerprint(self) -> dict[str, Any]:
        """The text by name, size and digest."""
        if self._dataset is not None:
            return fingerprint.of_dataset(self._dataset, str(self.spec))
        return {"text": str(self.spec), **fingerprint.of_paths(paths_of(self.spec))}


def _part(path: Path, spec: TextSpec) -> Part:
    if not path.exists():
        wanted = 'JSON lines, each {"source": ..., "text": ...}, in UTF-8'
        raise FileNotFoundError(f"text: no file {str(path)!r}; wanted {wanted}, or a file of another kind of text")
    kind = kind_of(path)
    if kind == ".parquet":
        return Part(str(path), lambda first: read_parquet(path, spec.column, spec.source, first))
    if kind == ".npy":
        return Part(str(path), lambda first: _read_array(path, first))
    if kind == ".csv":
        return Part(str(path), lambda first: _from(enumerate(read_csv(path, spec.column, spec.source)), first))
    if kind == ".txt":
        return Part(str(path), lambda first: _from(enumerate(read_plain_text(path)), first))
    return Part(str(path), lambda first: _from(enumerate(read_jsonl(path, spec.column, spec.source)), first))


def _from(rows: Rows, first: int) -> Rows:
    return ((row, document) for row, document in rows if row >= first)


def _read_array(path: Path, first: int) -> Rows:
    """The rows of an array of tokens, each a document; memory-mapped."""
    rows = files.read_array(path, "text", "wanted a whole .npy array of integers [documents, tokens]")
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"text: {str(path)!r} holds {rows.dtype} {list(rows.shape)}; wanted integers [documents, tokens]"
        )
    for row in range(first, len(rows)):
        yield row, TokenDocument(DEFAULT_SOURCE, np.asarray(rows[row]))
