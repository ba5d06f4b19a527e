"""Searching the examples of all features for words, in files that a page loads one at a time."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

from monosem.analysis.windows import Window

LONGEST = 16  # characters of a word that count
_MARKS = "".join(c for c in map(chr, range(0x300, 0x10000)) if unicodedata.category(c)[0] == "M")
_WORD = re.compile(rf"(?:[^\W_]|[{_MARKS}])+")  # Python's \w lacks the vowel signs of Indic scripts
_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # no spaces, or long compounds


def words(text: str) -> Iterator[str]:
    """The words of a text as they are searched: lower case, cut off; of scripts without spaces pairs of characters."""
    for word in _WORD.findall(text.lower()):
        if _UNSPACED.search(word):
            yield from (word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif len(word) > 1:
            yield word[:LONGEST]


def of_examples(windows: Iterable[Window]) -> set[str]:
    """The words by which a feature is found: those on which it fires, and those in at least two examples."""
    seen: Counter[str] = Counter()
    chosen: set[str] = set()
    for window in windows:
        seen.update(set(words(window.text)))
        chosen.update(words(_on_words(window)))
    return chosen | {word for word, count in seen.items() if count > 1}


def _on_words(window: Window) -> str:
    """The text of the window's words that hold an active piece; a word is not cut where only a part of it fires."""
    text, spans, at = "", [], 0
    for piece in window.pieces:
        if piece.value > 0:
            spans.append((at, at + len(piece.text)))
        text += piece.text
        at = len(text)
    return " ".join(m.group() for m in _WORD.finditer(text) if any(a < m.end() and m.start() < b for a, b in spans))


class WordIndex:
    """Which features' examples hold a word: posting lists in ``shards`` parts, by the word's first two characters."""

    def __init__(self, shards: int) -> None:
        self.shards = [dict[str, array]() for _ in range(shards)]

    def add(self, feature: int, new: Iterable[str]) -> None:
        """Features come in ascending order."""
        for word in new:
            self.shards[shard_of(word, len(self.shards))].setdefault(word, array("I")).append(feature)

    def shard(self, number: int) -> dict[str, list[int]]:
        """{word: features as differences}, in order of the words."""
        return {
            word: [b - a for a, b in zip([0, *features], features, strict=False)]
            for word, features in sorted(self.shards[number].items())
        }


def shard_of(word: str, shards: int) -> int:
    """Part of the index that holds a word; the page computes the same."""
    return (ord(word[0]) * 31 + ord(word[1:2] or "\0")) % shards
