"""The text that ships with monosem: for the demo, for examples and for a first look at any model."""

from __future__ import annotations

from importlib.resources import files as resources
from pathlib import Path

from monosem.data.text import Document, read_jsonl, split_holdout

SPLITS = ("train", "held_out", "all")


def sample_path() -> Path:
    """Where the shipped sample text lies (``.jsonl.xz``); its sources and licences are in SAMPLE_TEXT.md beside it.

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
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}; wanted 'train', 'held_out' or 'all'")
    documents = list(read_jsonl(sample_path() if text == "sample" else text))
    if split != "all":
        documents = split_holdout(documents)[SPLITS.index(split)]
    if not documents:
        raise ValueError(
            f"text: {str(text)!r} holds no document for split {split!r}; wanted at least one JSON line with a 'text'"
            + (" (2 in a source, to hold one out). Use split 'all'." if split == "held_out" else "")
        )
    return documents
