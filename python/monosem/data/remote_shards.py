"""Shards that lie elsewhere: parts of many of them are fetched side by side, and compared with their checksums.

A request takes tens of milliseconds whatever it brings, so that the parts that a buffer needs, a few of each shard of a
large store, are fetched together: fsspec sends many requests at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from monosem.data.shards import BITS, Shard, checksum

_GROUP = 1 << 26  # bytes that are fetched at a time


class RemoteShard(Shard):
    """A shard of which parts are fetched when they are read; each is checked whenever it is fetched."""

    path: Any  # a UPath

    def bits(self) -> "Fetched":  # pyright: ignore[reportIncompatibleMethodOverride]  # it is indexed alike
        """The activations as integers [n, d_in]: a part is fetched when it is first taken."""
        return Fetched(self)

    def check(self, bits: "Fetched", first: int, last: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """How many tokens were fetched for these, and not counted before."""
        return bits.counted(first, last)

    def verify(self) -> None:
        """Fetch all of it and compare every checksum."""
        self.where()
        step = max(1, _GROUP // (self.layout.chunk_tokens * self.layout.token_bytes))
        for first in range(0, self.parts, step):
            fetch([self], {0: np.arange(first, min(first + step, self.parts))})

    def _read_tail(self) -> bytes:
        return self.path.fs.cat_file(self.path.path, start=self.layout.tail(self.tokens))


class Fetched:
    """The activations of a shard as integers [n, d_in]; those parts are in memory that were taken or fetched."""

    def __init__(self, shard: RemoteShard, parts: dict[int, np.ndarray] | None = None) -> None:
        self._shard, self._parts = shard, parts or {}
        self._new = set(self._parts)

    def __getitem__(self, at: slice | np.ndarray) -> np.ndarray:
        step = self._shard.layout.chunk_tokens
        if isinstance(at, slice):
            first, last, _ = at.indices(self._shard.tokens)
            part = first // step
            if part in self._parts and last <= (part + 1) * step:
                return self._parts[part][first - part * step : last - part * step]
            at = np.arange(first, last)
        homes = at // step
        needed = np.unique(homes)
        if missing := [int(part) for part in needed if int(part) not in self._parts]:
            self._parts |= fetch([self._shard], {0: np.array(missing)})[0]
            self._new |= set(missing)
        out = np.empty((len(at), self._shard.layout.d_in), BITS[self._shard.layout.dtype])
        for part in needed:
            here = homes == part
            out[here] = self._parts[int(part)][at[here] - part * step]
        return out

    def counted(self, first: int, last: int) -> int:
        step = self._shard.layout.chunk_tokens
        here = self._new & set(range(first // step, -(-last // step)))
        self._new -= here
        return sum(len(self._parts[part]) for part in here)


def opened(shards: Sequence[RemoteShard], wanted: Mapping[int, np.ndarray]) -> Iterator[tuple[int, Fetched]]:
    """(number, activations) of these shards, whose parts ``wanted`` are fetched side by side, in bounded memory.

    Args:
        wanted: {number of the shard: numbers of its parts, ascending}.
    """
    for some in _groups(wanted, shards):
        there = fetch(shards, some)
        for number in some:
            yield number, Fetched(shards[number], there[number])


def fetch(shards: Sequence[RemoteShard], wanted: Mapping[int, np.ndarray]) -> dict[int, dict[int, np.ndarray]]:
    """{number of the shard: {part: its activations}}, by as many requests at a time as the file system allows.

    Raises:
        DamagedShard: a part differs from its checksum, or is missing; names the shard and the tokens.
    """
    asked: list[tuple[int, int, int, int, int]] = []  # shard, first part, last part, first byte, last byte
    for number, parts in wanted.items():
        shard = shards[number]
        step, size = shard.layout.chunk_tokens, shard.layout.token_bytes
        if not shard.has_checksums:
            asked.append((number, 0, 0, shard.layout.tail(shard.tokens), shard.layout.size(shard.tokens)))
        for run in np.split(parts, np.flatnonzero(np.diff(parts) > 1) + 1):
            first, last = int(run[0]), int(run[-1]) + 1
            asked.append((number, first, last, first * step * size, min(last * step, shard.tokens) * size))
    fs = shards[asked[0][0]].path.fs
    paths, begin, end = ([a[0] for a in asked], [a[3] for a in asked], [a[4] for a in asked])
    blobs = fs.cat_ranges([shards[n].path.path for n in paths], begin, end, on_error="raise")
    there: dict[int, dict[int, np.ndarray]] = {number: {} for number in wanted}
    for (number, first, last, *_), blob in zip(asked, blobs, strict=True):
        shard = shards[number]
        if first == last:
            shard.where(blob)
        else:
            there[number] |= _parts_of(shard, blob, range(first, last))
    return there


def _parts_of(shard: RemoteShard, blob: bytes, numbers: range) -> dict[int, np.ndarray]:
    layout, parts = shard.layout, {}
    step = layout.chunk_tokens * layout.token_bytes
    for at, number in enumerate(numbers):
        data = memoryview(blob)[at * step : (at + 1) * step]
        tokens = min(layout.chunk_tokens, shard.tokens - number * layout.chunk_tokens)
        if len(data) < tokens * layout.token_bytes or checksum(data) != shard.checksum_of(number):
            raise shard.altered(number)
        parts[number] = np.frombuffer(data, BITS[layout.dtype]).reshape(tokens, layout.d_in)
    return parts


def _groups(wanted: Mapping[int, np.ndarray], shards: Sequence[RemoteShard]) -> Iterator[dict[int, np.ndarray]]:
    """``wanted`` in groups of shards, each of ``_GROUP`` bytes and at most one shard more."""
    some: dict[int, np.ndarray] = {}
    size = 0
    for number, parts in wanted.items():
        some[number] = parts
        size += len(parts) * shards[number].layout.chunk_tokens * shards[number].layout.token_bytes
        if size >= _GROUP:
            yield some
            some, size = {}, 0
    if some:
        yield some
