"""Text with a source label: JSON lines in, documents out, a fixed hold-out."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Document:
    """One document and the name of the collection it comes from."""

    source: str
    text: str


def read_jsonl(path: str | Path) -> Iterator[Document]:
    """Yield the documents of a JSON-lines file, plain or ``.xz``.

    Each line is ``{"text": ..., "source": ...}``; ``source`` may be left out (``"text"`` is then used).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not UTF-8, not JSON, or has no ``text``; names the file and the line. Or an ``.xz`` file
            that is damaged or cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"text: no file {str(path)!r}; wanted JSON lines, each with a 'text' field")
    with lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb") as lines:
        number = 0
        try:
            for raw in lines:
                number += 1
                if raw.strip():
                    yield _parse(raw, f"{path}, line {number}")
        except (lzma.LZMAError, EOFError) as error:
            raise ValueError(
                f"text: {str(path)!r} is damaged or cut short after line {number} ({error}); wanted a whole .xz file. "
                "Get it again."
            ) from None


def _parse(raw: bytes, where: str) -> Document:
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text: {where} is not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start}); "
            "wanted UTF-8 JSON lines. Convert the file, for example with `iconv -t utf-8`."
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"text: {where} is not JSON ({error}); wanted one object a line") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError(f'text: {where} has no string field \'text\'; wanted {{"source": ..., "text": ...}}')
    return Document(str(record.get("source", "text")), record["text"])


def split_holdout(documents: list[Document], share: float = 0.02) -> tuple[list[Document], list[Document]]:
    """Split documents into (training, held out), the same way every time.

    Of each source, ``max(1, round(share · n))`` documents, evenly spaced, are held out; a source with a single
    document stays whole in training. No randomness: two models trained on one file share one hold-out.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: got {share}; wanted a fraction in [0, 1)")
    held = held_out_places(Counter(d.source for d in documents), share)
    return list(of_split(documents, held, held_out=False)), list(of_split(documents, held, held_out=True))


def held_out_places(counts: Mapping[str, int], share: float = 0.02) -> dict[str, set[int]]:
    """Which documents of each source are held out: their places among those of the source."""
    held = {}
    for source, n in counts.items():
        count = max(1, round(share * n)) if share and n > 1 else 0
        held[source] = {(2 * i + 1) * n // (2 * count) for i in range(count)}
    return held


def of_split(documents: Iterable[Document], held: Mapping[str, set[int]], *, held_out: bool) -> Iterator[Document]:
    """The documents that are held out, or the others, one after the other."""
    seen: Counter[str] = Counter()
    for document in documents:
        if (seen[document.source] in held.get(document.source, ())) == held_out:
            yield document
        seen[document.source] += 1
