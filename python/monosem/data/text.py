"""Text with a source label, and a fixed hold-out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np


@dataclass(frozen=True)
class Document:
    """One document and the name of the collection it comes from."""

    source: str
    text: str


@dataclass(frozen=True, eq=False)
class TokenDocument:
    """A document that is tokens already, of the tokenizer of the model that is to read it: integers [n]."""

    source: str
    ids: np.ndarray


@dataclass(frozen=True)
class ChatDocument:
    """A conversation, which the model's tokenizer lays out by its template: ``{"role": …, "content": …}`` each."""

    source: str
    messages: Sequence[Mapping[str, Any]]


AnyDocument = Document | TokenDocument | ChatDocument
Documents = TypeVar("Documents", bound=AnyDocument)


def held_out_places(counts: Mapping[str, int], share: float = 0.02) -> dict[str, set[int]]:
    """Which documents of each source are held out, from how many it has: their places among those of the source.

    ``max(1, round(share · n))`` of n, evenly spaced; a source with a single document stays whole in training. No
    randomness: two models trained on one file share one hold-out.

    Raises:
        ValueError: ``share`` is no fraction in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: got {share}; wanted a fraction in [0, 1)")
    held = {}
    for source, n in counts.items():
        count = max(1, round(share * n)) if share and n > 1 else 0
        held[source] = {(2 * i + 1) * n // (2 * count) for i in range(count)}
    return held


def of_split(documents: Iterable[Documents], held: Mapping[str, set[int]], *, held_out: bool) -> Iterator[Documents]:
    """The documents that are held out, or the others, one after the other."""
    seen: Counter[str] = Counter()
    for document in documents:
        if (seen[document.source] in held.get(document.source, ())) == held_out:
            yield document
        seen[document.source] += 1
