"""Tokens as bytes and characters: byte-level BPE cuts through characters, and a proxy has to see them whole."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from monosem.data.protocols import LanguageModel

_ROOM = 0x110000  # code points of Unicode
_SEPARATOR = b"\0"  # stands for the BOS: belongs to no script, ends every run


class Vocabulary:
    """The bytes of every token of a model.

    Attributes:
        length: int64 [V], bytes of each token (the BOS counts as one byte of its own).
        spaced: bool [V], tokens that begin with a space and go on: the space is the tokenizer's way to write a word.
    """

    def __init__(self, model: LanguageModel) -> None:
        entries = [_SEPARATOR if t == model.bos_id else model.token_bytes(t) for t in range(model.d_vocab)]
        self.bos_id = int(model.bos_id)
        self.entries = entries
        self.length = np.array([len(e) for e in entries], dtype=np.int64)
        self._start = np.concatenate([[0], self.length.cumsum()])[:-1]
        self._bytes = np.frombuffer(b"".join(entries), dtype=np.uint8)
        self.spaced = np.array([len(e) > 1 and e[:1] == b" " for e in entries])

    def __len__(self) -> int:
        return len(self.entries)

    def count(self, characters: bytes) -> np.ndarray:
        """How many bytes of each token are among these (ASCII): int64 [V]."""
        hit = np.isin(self._bytes, np.frombuffer(characters, dtype=np.uint8))
        return np.bincount(np.repeat(np.arange(len(self)), self.length), weights=hit, minlength=len(self)).astype(int)

    def characters(self) -> np.ndarray:
        """Characters that each token begins (at least 1: a token of continuation bytes is part of one): int64 [V]."""
        begins = (self._bytes & 0xC0) != 0x80
        owner = np.repeat(np.arange(len(self)), self.length)
        return np.maximum(1, np.bincount(owner, weights=begins, minlength=len(self))).astype(int)

    def read(self, tokens: np.ndarray) -> "Characters":
        """The characters of rows of tokens [B, T]; no character reaches from one row into the next."""
        tokens = np.asarray(tokens, dtype=np.int64)
        flat = tokens.reshape(-1)
        length = self.length[flat]
        token = np.repeat(np.arange(len(flat)), length)
        first = length.cumsum() - length
        raw = self._bytes[np.arange(len(token)) - first[token] + self._start[flat][token]]
        code, last = _decode(raw, token // max(tokens.shape[1], 1))
        return Characters(
            tokens=tokens,
            token=token,
            first=first,
            length=length,
            raw=raw,
            code=code,
            last=last,
            spaced=self.spaced[flat],
        )


def _decode(raw: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 at once for many rows: of each byte its character's code point (−1: not whole), and whether it ends it."""
    code = np.full(len(raw), -1, dtype=np.int32)
    last = np.zeros(len(raw), dtype=bool)
    continues = (raw & 0xC0) == 0x80
    wide = raw.astype(np.int32)
    for size, low, high, mask in ((1, 0, 0x7F, 0x7F), (2, 0xC2, 0xDF, 0x1F), (3, 0xE0, 0xEF, 0x0F), (4, 0xF0, 0xF4, 7)):
        lead = np.flatnonzero((raw >= low) & (raw <= high))
        lead = lead[lead + size <= len(raw)]
        good = row[lead] == row[lead + size - 1]
        point = wide[lead] & mask
        for k in range(1, size):
            good &= continues[lead + k]
            point = (point << 6) | (wide[lead + k] & 0x3F)
        lead, point = lead[good & (point < _ROOM)], point[good & (point < _ROOM)]
        for k in range(size):
            code[lead + k] = point
        last[lead + size - 1] = True
    return code, last


@dataclass(frozen=True)
class Characters:
    """Rows of tokens, laid end to end as M bytes of n tokens.

    Attributes:
        tokens: [B, T].
        token: int64 [M], the token (0 … n−1) of each byte.
        first, length: int64 [n], a token's bytes are ``first … first + length − 1``.
        raw: uint8 [M].
        code: int32 [M], the code point of the character that a byte belongs to, −1 if that is not whole.
        last: bool [M], the byte ends a whole character.
        spaced: bool [n], the token begins with a space and goes on.
    """

    tokens: np.ndarray
    token: np.ndarray
    first: np.ndarray
    length: np.ndarray
    raw: np.ndarray
    code: np.ndarray
    last: np.ndarray
    spaced: np.ndarray

    def all_in(self, member: np.ndarray) -> np.ndarray:
        """Tokens all of whose characters, whole with the bytes around them, are members: bool [n].

        Args:
            member: bool [0x110001], by code point; the last entry answers for broken characters.
        """
        outside = ~member[self.code]
        outside[self.first[self.spaced]] = False
        return (np.bincount(self.token, weights=outside, minlength=len(self.first)) == 0) & (self.length > 0)

    @property
    def complete(self) -> np.ndarray:
        """Tokens that end where a character ends: bool [n]. Only of these does the text so far tell every character."""
        return (
            (self.length > 0) & self.last[np.maximum(self.first + self.length - 1, 0)]
            if len(self.last)
            else (np.zeros(len(self.first), dtype=bool))
        )

    def coverage(self, inside: np.ndarray) -> np.ndarray:
        """Share of each token's bytes (a leading space apart) that are inside: float64 [n]; ``inside`` bool [M]."""
        counted = np.ones(len(self.token))
        counted[self.first[self.spaced]] = 0
        total = np.bincount(self.token, weights=counted, minlength=len(self.first))
        hit = np.bincount(self.token, weights=counted * inside, minlength=len(self.first))
        return hit / np.maximum(total, 1)

    def documents(self, bos: int) -> list[tuple[int, int]]:
        """Runs of tokens (first, end) between one BOS and the next, within a row."""
        rows, length = self.tokens.shape
        flat = self.tokens.reshape(-1)
        runs = []
        for row in range(rows):
            start = row * length
            cuts = (start + np.flatnonzero(flat[start : start + length] == bos)).tolist()
            edges = [start - 1, *cuts, start + length]
            runs += [(a + 1, b) for a, b in pairwise(edges) if b > a + 1]
        return runs

    def text(self, start: int, end: int) -> tuple[str, np.ndarray]:
        """The text of tokens start … end − 1 and, for each of its characters, the byte where it begins.

        A byte that belongs to no whole character stands as U+FFFD.
        """
        if start >= end:
            return "", np.zeros(0, dtype=np.int64)
        low, high = self.first[start], self.first[end - 1] + self.length[end - 1]
        begins = ((self.raw[low:high] & 0xC0) != 0x80) | (self.code[low:high] < 0)
        at = low + np.flatnonzero(begins)
        code = self.code[at]
        return "".join(map(chr, np.where(code < 0, 0xFFFD, code).tolist())), at
