"""Activations on disk: raw shards that can be memory-mapped, with checksums of their parts.

A store is a folder:

* ``index.json``: width, type, model, hook, what was harvested, and the shards that are complete;
* ``tokens.npy``: the contexts that the model read, int32 [rows, n_ctx];
* ``shard-00000.bin`` …: the activations of ``contexts_per_shard`` contexts each, in the order of the contexts.

A shard of n tokens is: the activations [n, d_in] (float32, or bfloat16 as 16 bits), zeros up to a multiple of 64
bytes, the row of each token int32 [n], its position int32 [n], and a CRC-32 (uint32) of every ``chunk_tokens`` tokens
of activations. The index holds the CRC-32 of what follows the zeros. So every part can be checked on its own, when it
is first read. Numbers are in the byte order that the index names.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monosem.data import files

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
BITS = {"bf16": np.dtype("i2"), "fp32": np.dtype("i4")}  # NumPy has no bfloat16: bits are copied, never changed
_TORCH_BITS = {"bf16": torch.int16, "fp32": torch.int32}
_CHUNK_BYTES = 1 << 17


class DamagedShard(ValueError):
    """A shard is missing, cut short or altered."""


@dataclass(frozen=True)
class Layout:
    """Where things are in a shard."""

    d_in: int
    dtype: str

    @property
    def token_bytes(self) -> int:
        return self.d_in * BITS[self.dtype].itemsize

    @property
    def chunk_tokens(self) -> int:
        """Tokens under one checksum, about 128 KiB of activations."""
        return max(1, _CHUNK_BYTES // self.token_bytes)

    def tail(self, tokens: int) -> int:
        """Offset of what follows the activations."""
        return -(-tokens * self.token_bytes // 64) * 64

    def size(self, tokens: int) -> int:
        """Bytes of a shard."""
        return self.tail(tokens) + 4 * (2 * tokens + -(-tokens // self.chunk_tokens))


def write_shard(path: Path, layout: Layout, activations: Tensor, rows: np.ndarray, positions: np.ndarray) -> int:
    """Write a shard atomically; returns the CRC-32 for the index.

    Args:
        activations: [n, d_in] on the CPU, in the type of the layout.
        rows, positions: [n], where each token stood.
    """
    bits = activations.contiguous().view(_TORCH_BITS[layout.dtype]).numpy()
    data, step = bits.reshape(-1).view("u1").data, layout.chunk_tokens * layout.token_bytes
    checksums = np.array([zlib.crc32(data[i : i + step]) for i in range(0, len(data), step)], dtype="u4")
    tail = b"".join(a.tobytes() for a in (rows.astype("i4"), positions.astype("i4"), checksums))

    def write(part: Path) -> None:
        with part.open("wb") as out:
            out.write(data)
            out.write(bytes(layout.tail(len(rows)) - len(data)))
            out.write(tail)

    files.write_whole(path, write)
    return zlib.crc32(tail)


class Shard:
    """One shard, opened for reading; each part is checked when it is first read."""

    def __init__(self, path: Path, tokens: int, crc32: int, layout: Layout, size: int | None = None) -> None:
        self.path, self.tokens, self.crc32, self.layout = path, tokens, crc32, layout
        if size is None:
            size = path.stat().st_size if path.is_file() else -1
        if size != layout.size(tokens):
            what = "is missing" if size < 0 else f"has {size:,} bytes"
            raise self._damaged(f"{what}; wanted {layout.size(tokens):,} bytes")
        self._checksums: np.ndarray | None = None
        self._checked = np.zeros(self.parts, dtype=bool)

    @property
    def parts(self) -> int:
        """Parts of ``chunk_tokens`` tokens, the last of which may have fewer."""
        return -(-self.tokens // self.layout.chunk_tokens)

    @property
    def has_checksums(self) -> bool:
        """Whether the checksums of the parts were read."""
        return self._checksums is not None

    def checksum_of(self, part: int) -> int:
        """What ``checksum`` of a part should be."""
        if self._checksums is None:
            self.where()
        assert self._checksums is not None  # read by ``where``
        return int(self._checksums[part])

    def bits(self) -> np.ndarray:
        """The activations as integers [n, d_in], memory-mapped. Not checked: see ``check``."""
        shape = (self.tokens, self.layout.d_in)
        if not self.tokens:  # contexts of nothing but padding; an empty file cannot be mapped
            return np.empty(shape, BITS[self.layout.dtype])
        try:
            return np.memmap(self.path, BITS[self.layout.dtype], "r", shape=shape)
        except (OSError, ValueError) as error:  # NumPy says ValueError when the file is too short for the shape
            raise self._damaged(f"cannot be mapped into memory ({error})") from None

    def where(self, tail: bytes | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(row, position) of each token, int32 [n] each; checked. ``tail``: the end of the file, where it is known."""
        tail = self._read_tail() if tail is None else tail
        if zlib.crc32(tail) != self.crc32:
            raise self._damaged("was altered (the checksum of its positions differs)")
        values = np.frombuffer(tail, dtype="i4")
        self._checksums = np.frombuffer(tail, dtype="u4", offset=8 * self.tokens)
        return values[: self.tokens], values[self.tokens : 2 * self.tokens]

    def check(self, bits: np.ndarray, first: int, last: int) -> int:
        """Check tokens [first, last) against their checksums; each part is checked once. Returns how many it has read.

        Raises:
            DamagedShard: names the shard and the tokens.
        """
        step, read = self.layout.chunk_tokens, 0
        for chunk in range(first // step, -(-last // step)):
            if not self._checked[chunk]:
                if checksum(bits[chunk * step : (chunk + 1) * step].data) != self.checksum_of(chunk):
                    raise self.altered(chunk)
                self._checked[chunk] = True
                read += min((chunk + 1) * step, self.tokens) - chunk * step
        return read

    def verify(self) -> None:
        """Read all of it and compare every checksum, also of parts read before."""
        self.where()
        self._checked[:] = False
        self.check(self.bits(), 0, self.tokens)

    def altered(self, part: int) -> DamagedShard:
        """The error for a part whose checksum differs."""
        first = part * self.layout.chunk_tokens
        last = min(first + self.layout.chunk_tokens, self.tokens) - 1
        return self._damaged(f"was altered (the checksum of tokens {first} to {last} differs)")

    def _read_tail(self) -> bytes:
        """What follows the activations."""
        with self.path.open("rb") as opened:
            opened.seek(self.layout.tail(self.tokens))
            return opened.read()

    def _damaged(self, what: str) -> DamagedShard:
        return DamagedShard(
            f"shard {self.path.name!r} of {str(self.path.parent)!r} {what}. Run the same `monosem harvest` "
            "(or monosem.data.harvest.harvest) again: it writes only damaged or missing shards."
        )


def checksum(part: memoryview) -> int:
    """CRC-32 of a part of the activations."""
    return zlib.crc32(part)


def as_bits(activations: Tensor, dtype: str) -> np.ndarray:
    """The memory of a CPU tensor in a store's type, as the integers that ``Shard.bits`` gives."""
    return activations.view(_TORCH_BITS[dtype]).numpy()
