"""Products of two sparse codes summed over tokens, Σ_t u_i(t)·v_j(t), for every pair of features, block by block.

Correlation and masked cosine between the features of two dictionaries need such sums. A pair costs something only where
both fire: N · K_a · K_b multiplications, not N · F_a · F_b. And nothing of size F_a × F_b need exist: what does not fit
into ``memory`` is written to a temporary folder as it comes and multiplied for a block of rows at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monosem.ops.precision import as_given

_PAIRS = 1 << 22  # pairs expanded at a time (about 100 MiB)
_AT_ONCE = 256
# A dense product takes this many of its multiplications in the time of one scattered addition.
_DENSE = 100


@dataclass(frozen=True)
class Entries:
    """A code, token after token: ``features`` and ``at`` (which token) int64 [nnz], ``values`` [P, nnz].

    P different values may stand at the same places (the activation, its square, …).
    """

    features: Tensor
    at: Tensor
    values: Tensor


class CrossProducts:
    """C[p, i, j] = Σ_t a_p,i(t) · b_p,j(t), p < ``products``.

    Args:
        rows, columns: features of the first and of the second dictionary.
        products: how many such sums at once (the two codes bring as many values an entry).
        memory: bytes of sums that may exist at a time; beyond it the codes go to disk.
        folder: where (a folder in it, removed by :meth:`close`); default: the system's temporary one.
    """

    def __init__(
        self, rows: int, columns: int, products: int = 1, memory: int = 1 << 30, folder: str | Path | None = None
    ) -> None:
        self.rows, self.columns, self.products, self.memory = rows, columns, products, memory
        self.block = max(1, min(rows, memory // (8 * products * columns)))
        self._sums = (
            torch.zeros(products, rows, columns, dtype=torch.float64, device="cpu") if self.block == rows else None
        )
        self._folder = None if self._sums is not None else tempfile.TemporaryDirectory("", "monosem-", folder)
        self._chunks: list[tuple[int, np.ndarray, int]] = []  # tokens, where each block of rows begins, entries of b
        if self._folder is not None:
            self._files = {name: (Path(self._folder.name) / name).open("wb+") for name in ("a", "b")}
            self._ends = {"a": [0], "b": [0]}

    def update(self, a: Entries, b: Entries, tokens: int) -> None:
        """Read the codes of the same ``tokens`` tokens, numbered from 0 in both."""
        for name, part in (("a", a), ("b", b)):
            if part.values.shape != (self.products, len(part.features)) or len(part.at) != len(part.features):
                raise ValueError(
                    f"{name}: got values {list(part.values.shape)} for {len(part.features)} entries; "
                    f"wanted [{self.products}, {len(part.features)}]"
                )
        if self._sums is not None:
            _add(self._sums, a, b, tokens)
            return
        order = torch.argsort(a.features // self.block, stable=True)
        a = Entries(a.features[order], a.at[order], a.values[:, order])
        starts = torch.arange(0, self.rows + self.block, self.block, device="cpu")
        edges = torch.searchsorted(a.features // self.block, starts // self.block).numpy()
        self._chunks.append((tokens, edges, len(b.features)))
        for name, part in (("a", a), ("b", b)):
            packed = _packed(part)
            packed.tofile(self._files[name])
            self._ends[name].append(self._ends[name][-1] + len(packed))

    def blocks(
        self, rows: Tensor | None = None, columns: Tensor | None = None, progress: str | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(numbers of some rows [n], sums [products, n, columns] in float64), in order of the rows.

        At most ``_AT_ONCE`` rows at a time, so that what is computed from them stays small beside the sums.

        Args:
            rows, columns: only these, in ascending order (default: all). Sums on disk are made for these alone: most
                features of a wide dictionary fire too rarely to be compared.
            progress: label of a progress bar while sums are made from disk, which may take longer than reading; its
                tokens count once per part of the sums that fits into memory. None shows none.
        """
        rows = torch.arange(self.rows, device="cpu") if rows is None else rows
        columns = torch.arange(self.columns, device="cpu") if columns is None else columns
        for held, sums in self._held(rows, columns, progress) if len(rows) else ():
            yield from zip(held.split(_AT_ONCE), sums.split(_AT_ONCE, dim=1), strict=True)

    def _held(self, rows: Tensor, columns: Tensor, progress: str | None) -> Iterator[tuple[Tensor, Tensor]]:
        if self._sums is not None:
            whole = len(rows) == self.rows and len(columns) == self.columns
            for numbers in rows.split(_AT_ONCE):
                part = self._sums[:, numbers[0] : numbers[-1] + 1] if whole else self._sums[:, numbers][:, :, columns]
                yield numbers, part
            return
        for handle in self._files.values():
            handle.flush()
        place = torch.full((self.columns,), -1, dtype=torch.int64, device="cpu")
        place[columns] = torch.arange(len(columns), device="cpu")
        parts = rows.split(max(1, self.memory // (8 * self.products * max(1, len(columns)))))
        tokens = sum(tokens for tokens, *_ in self._chunks)
        show = {"unit": "tok", "unit_scale": True, "desc": progress, "disable": progress is None}
        with tqdm(total=tokens * len(parts), **show) as bar:
            for numbers in parts:
                yield numbers, self._summed(numbers, place, len(columns), bar)

    def _summed(self, numbers: Tensor, place: Tensor, columns: int, bar: tqdm) -> Tensor:
        """The sums of some rows, from disk; ``place`` says which column each feature of b goes to (−1: none)."""
        sums = torch.zeros(self.products, len(numbers), columns, dtype=torch.float64, device="cpu")
        row = torch.full((self.rows,), -1, dtype=torch.int64, device="cpu")
        row[numbers] = torch.arange(len(numbers), device="cpu")
        first, last = int(numbers[0]) // self.block, int(numbers[-1]) // self.block
        for chunk, (tokens, edges, count) in enumerate(self._chunks):
            low, high = int(edges[first]), int(edges[last + 1])
            if low < high and count:
                a = _renamed(self._read("a", self._ends["a"][chunk] + low, high - low), row)
                b = _renamed(self._read("b", self._ends["b"][chunk], count), place)
                _add(sums, a, b, tokens)
            bar.update(tokens)
        return sums

    def close(self) -> None:
        """Remove what was written to disk."""
        if self._folder is not None:
            for handle in self._files.values():
                handle.close()
            self._folder.cleanup()

    def __enter__(self) -> "CrossProducts":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, name: str, start: int, count: int) -> Entries:
        kind = _kind(self.products)
        packed = np.fromfile(self._files[name].name, kind, count, offset=start * kind.itemsize)
        features, at = (torch.from_numpy(packed[k].astype(np.int64)) for k in ("feature", "at"))
        return Entries(features, at, torch.from_numpy(packed["values"].T.copy()))


def _renamed(part: Entries, place: Tensor) -> Entries:
    """The entries whose feature has a place, as entries of that place."""
    features = place[part.features]
    there = features >= 0
    return Entries(features[there], part.at[there], part.values[:, there])


def _kind(products: int) -> np.dtype:
    return np.dtype([("feature", "<i4"), ("at", "<i4"), ("values", "<f4", (products,))])


def _packed(part: Entries) -> np.ndarray:
    packed = np.empty(len(part.features), _kind(len(part.values)))
    packed["feature"], packed["at"] = part.features.numpy(), part.at.numpy()
    packed["values"] = part.values.T.float().numpy()
    return packed


@as_given
def _add(sums: Tensor, a: Entries, b: Entries, tokens: int) -> None:
    """sums[p, i, j] += Σ over pairs of entries on the same token; the entries of b in the order of their tokens."""
    per_token = torch.bincount(b.at, minlength=tokens)
    degree = per_token[a.at]
    pairs = int(degree.sum())
    products, rows, columns = sums.shape
    if rows * columns * tokens < _DENSE * pairs:
        for p in range(products):
            dense_a, dense_b = (
                torch.zeros(tokens, rows, dtype=torch.float32, device="cpu"),
                torch.zeros(tokens, columns, dtype=torch.float32, device="cpu"),
            )
            dense_a[a.at, a.features] = a.values[p].float()
            dense_b[b.at, b.features] = b.values[p].float()
            sums[p] += dense_a.T @ dense_b
        return
    first = (per_token.cumsum(0) - per_token)[a.at]
    flat = sums.view(products, -1)
    ends = degree.cumsum(0)
    start = 0
    while start < len(degree):  # as many entries of a as make _PAIRS pairs, at least one
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, done + _PAIRS, right=True)))
        of_a = torch.repeat_interleave(torch.arange(start, stop, device="cpu"), degree[start:stop])
        place = torch.arange(len(of_a), device="cpu") - (ends[start:stop] - degree[start:stop] - done)[of_a - start]
        of_b = first[of_a] + place
        cell = a.features[of_a] * columns + b.features[of_b]
        for p in range(products):
            flat[p].scatter_add_(0, cell, a.values[p][of_a].double() * b.values[p][of_b].double())
        start = stop
