"""Plain text files: a file is a document; a long one is several, cut between paragraphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from monosem.data.compressed import DAMAGE, SUFFIXES, damaged, open_unpacked
from monosem.data.records import DEFAULT_SOURCE
from monosem.data.text import Document
from monosem.data.unicode import check_text

NAMES = (".txt", ".text", ".md")
LONGEST = 1 << 20  # characters of a document, about


def is_plain_text(path: Path) -> bool:
    """By its name, that of a packed file too."""
    name = path.with_suffix("") if path.suffix in SUFFIXES else path
    return name.suffix.lower() in NAMES


def read_plain_text(path: Path) -> Iterator[Document]:
    """The documents of a UTF-8 file, each up to about a million characters.

    Raises:
        ValueError: it is not UTF-8, or damaged.
    """
    with path.open("rb") as opened:
        begin = opened.read(16)
    held: list[str] = []
    size = number = 0
    try:
        with open_unpacked(path, begin) as lines:
            for raw in lines:
                number += 1
                line = raw.decode("utf-8").removeprefix("\ufeff")
                if size >= LONGEST and (not line.strip() or size >= 2 * LONGEST):
                    yield _document(path, held)
                    held, size = [], 0
                held.append(line)
                size += len(line)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text: {str(path)!r}, line {number}, is not UTF-8 (byte 0x{error.object[error.start]:02x} at column "
            f"{error.start}); wanted UTF-8 text. Convert the file, for example with `iconv -t utf-8`."
        ) from None
    except DAMAGE as error:
        raise damaged(path, begin, f"line {number}", error) from None
    if "".join(held).strip():
        yield _document(path, held)


def _document(path: Path, held: list[str]) -> Document:
    text = "".join(held)
    check_text(text, f"text: {str(path)!r}")
    return Document(DEFAULT_SOURCE, text)
