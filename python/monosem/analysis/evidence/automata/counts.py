"""Sums over sparse keys (pairs of features, feature and token) in bounded memory."""

from __future__ import annotations

import numpy as np


class KeySums:
    """``sums[key] += weight`` over a stream of int64 keys, of which few occur.

    Args:
        capacity: keys held. When more occur, the smallest sums are dropped until half are left (lossy counting): no sum
            is then more than ``lost`` too small, none is too large.
        buffer: keys gathered before they are sorted in.
    """

    def __init__(self, capacity: int = 24_000_000, buffer: int = 4_000_000) -> None:
        if capacity < 2 or buffer < 1:
            raise ValueError(f"capacity, buffer: got {capacity}, {buffer}; wanted at least 2 and 1")
        self.capacity, self.buffer, self.lost = capacity, buffer, 0.0
        self._keys, self._sums = np.zeros(0, np.int64), np.zeros(0)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._held = 0

    def add(self, keys: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add one (or its weight) to the sum of each key."""
        if len(keys):
            reduced = _reduce(keys, np.ones(len(keys)) if weights is None else weights.astype(np.float64))
            self._waiting.append(reduced)
            self._held += len(reduced[0])
        if self._held >= max(self.buffer, len(self._keys)):
            self._merge()

    def _merge(self) -> None:
        parts = [(self._keys, self._sums), *self._waiting]
        self._keys, self._sums = _reduce(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        self._waiting, self._held = [], 0
        if len(self._keys) > self.capacity:
            rank = len(self._sums) - self.capacity // 2
            cutoff = np.partition(self._sums, rank)[rank]
            kept = self._sums > cutoff if (self._sums > cutoff).any() else self._sums >= cutoff
            self.lost += float(self._sums[~kept].max(initial=0.0))
            self._keys, self._sums = self._keys[kept], self._sums[kept]

    def items(self) -> tuple[np.ndarray, np.ndarray]:
        """(keys, sums), sorted by key."""
        if self._waiting:
            self._merge()
        return self._keys, self._sums

    def get(self, keys: np.ndarray) -> np.ndarray:
        """The sums of these keys, 0 for a key that never occurred."""
        held, sums = self.items()
        if not len(held):
            return np.zeros(len(keys))
        at = np.minimum(np.searchsorted(held, keys), len(held) - 1)
        return np.where(held[at] == keys, sums[at], 0.0)

    def row(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(keys, sums) with first ≤ key < end."""
        held, sums = self.items()
        a, b = np.searchsorted(held, [first, end])
        return held[a:b], sums[a:b]


def _reduce(keys: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[order]
    if not len(keys):
        return keys, weights
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(weights, first)
