"""The text that ships with monosem: for the demo, for examples and for a first look at any model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.resources import files as resources
from pathlib import Path

from monosem.data.jsonl import read_jsonl
from monosem.data.text import Document, held_out_places, of_split

SPLITS = ("train", "held_out", "all")


def sample_path() -> Path:
    """Path of the shipped sample text (``.jsonl.xz``); its sources and licences are in SAMPLE_TEXT.md beside it.

    Raises:
        FileNotFoundError: the package was installed without its assets.
    """
    path = Path(str(resources("monosem"))) / "assets" / "sample_text.jsonl.xz"
    if not path.is_file():
        raise FileNotFoundError(
            f"sample text: no file {str(path)!r}; wanted the one that ships with monosem. "
            "Install the package again, or build it with `python tools/build_sample_text.py` in a checkout."
        )
    return path


def sample_documents(split: str = "train") -> list[Document]:
    """The shipped documents, each labelled with its source (``en_prose``, ``ar_ui``, ``dna``, ``base64``, …).

    Args:
        split: ``"train"``, ``"held_out"`` (2 % of the documents of every source, always the same ones) or ``"all"``.

    Raises:
        ValueError: another split.
    """
    return load_documents("sample", split)


def load_documents(text: str | Path = "sample", split: str = "train") -> list[Document]:
    """The documents of a JSON-lines file, or of the shipped text (``"sample"``), for one split.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another split, a line that is no document, or no document at all.
    """
    return list(stream_documents(text, split))


def stream_documents(text: str | Path = "sample", split: str = "train") -> Iterator[Document]:
    """``load_documents``, one after the other: the file is read once to count, once more to give, and never held."""
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}; wanted 'train', 'held_out' or 'all'")
    path = sample_path() if text == "sample" else text
    chosen: Iterable[Document] = read_jsonl(path)
    if split != "all":
        held = held_out_places(Counter(d.source for d in read_jsonl(path)))
        chosen = of_split(chosen, held, held_out=split == "held_out")
    any_at_all = False
    for document in chosen:
        any_at_all = True
        yield document
    if not any_at_all:
        raise ValueError(
            f"text: {str(text)!r} holds no document for split {split!r}; wanted at least one JSON line with a 'text'"
            + (" (2 in a source, to hold one out). Use split 'all'." if split == "held_out" else "")
        )
