"""Activations on disk: raw shards that can be memory-mapped, and an index with their checksums.

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

import json
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.data import counted, files, kinds

FORMAT = kinds.STORE
# 2: ``skip_tokens`` are left out at every position; before, every context kept the same number of tokens.
# 3: some of the tokens are beyond a limit on the norm, ``skip_norm``, and not to be trained on.
VERSIONS = (1, 2, 3)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_BITS = {"bf16": np.dtype("i2"), "fp32": np.dtype("i4")}  # NumPy has no bfloat16: bits are copied, never changed
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
        return self.d_in * _BITS[self.dtype].itemsize

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

    def __init__(self, path: Path, tokens: int, crc32: int, layout: Layout) -> None:
        self.path, self.tokens, self.crc32, self.layout = path, tokens, crc32, layout
        size = path.stat().st_size if path.is_file() else -1
        if size != layout.size(tokens):
            what = "is missing" if size < 0 else f"has {size:,} bytes"
            raise self._damaged(f"{what}; wanted {layout.size(tokens):,} bytes")
        self._checksums: np.ndarray | None = None
        self._checked = np.zeros(-(-tokens // layout.chunk_tokens), dtype=bool)

    def bits(self) -> np.ndarray:
        """The activations as integers [n, d_in], memory-mapped. Not checked: see ``check``."""
        shape = (self.tokens, self.layout.d_in)
        if not self.tokens:  # contexts of nothing but padding; an empty file cannot be mapped
            return np.empty(shape, _BITS[self.layout.dtype])
        try:
            return np.memmap(self.path, _BITS[self.layout.dtype], "r", shape=shape)
        except (OSError, ValueError) as error:  # NumPy says ValueError when the file is too short for the shape
            raise self._damaged(f"cannot be mapped into memory ({error})") from None

    def where(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, position) of each token, int32 [n] each; checked."""
        with self.path.open("rb") as opened:
            opened.seek(self.layout.tail(self.tokens))
            tail = opened.read()
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
        step = self.layout.chunk_tokens
        if self._checksums is None:
            self.where()
        checksums = self._checksums
        assert checksums is not None  # read by ``where``
        read = 0
        for chunk in range(first // step, -(-last // step)):
            if not self._checked[chunk]:
                if zlib.crc32(bits[chunk * step : (chunk + 1) * step].data) != checksums[chunk]:
                    end = min((chunk + 1) * step, self.tokens)
                    raise self._damaged(f"was altered (the checksum of tokens {chunk * step} to {end - 1} differs)")
                self._checked[chunk] = True
                read += min((chunk + 1) * step, self.tokens) - chunk * step
        return read

    def verify(self) -> None:
        """Read all of it and compare every checksum, also of parts read before."""
        self.where()
        self._checked[:] = False
        self.check(self.bits(), 0, self.tokens)

    def _damaged(self, what: str) -> DamagedShard:
        return DamagedShard(
            f"shard {self.path.name!r} of {str(self.path.parent)!r} {what}. Run the same `monosem harvest` "
            "(or monosem.data.harvest.harvest) again: it writes only damaged or missing shards."
        )


def as_bits(activations: Tensor, dtype: str) -> np.ndarray:
    """The memory of a CPU tensor in a store's type, as the integers that ``Shard.bits`` gives."""
    return activations.view(_TORCH_BITS[dtype]).numpy()


@dataclass
class Index:
    """Contents of a store. ``shards[i]`` is None, or the CRC-32 of shard i once that shard is on disk."""

    folder: Path
    # d_in, dtype, hook_name, model, rows, n_ctx, skip_positions, tokens_crc32, contexts_per_shard[, skip_tokens]
    # [, widths: of several activations side by side, of which hook_name, or model too, are then lists]
    # [, skip_norm: a limit on the norm, by which readers leave tokens out (``NormLimit``)]
    settings: dict[str, Any]
    shards: list[int | None] = field(default_factory=list)
    # int64 [rows]; when none are given, found from the settings and the tokens
    lengths: np.ndarray = None  # pyright: ignore[reportAssignmentType]  # never None once it is made

    def __post_init__(self) -> None:
        if self.lengths is None:
            skip, ids = self.settings["skip_positions"], self.settings.get("skip_tokens")
            if ids is None:
                self.lengths = np.full(self.settings["rows"], self.settings["n_ctx"] - skip, dtype=np.int64)
            else:
                self.lengths = counted.lengths(read_tokens(self), skip, ids)

    @property
    def layout(self) -> Layout:
        return Layout(self.settings["d_in"], self.settings["dtype"])

    def contexts(self, shard: int) -> range:
        """The rows of ``tokens.npy`` that a shard covers."""
        size = self.settings["contexts_per_shard"]
        return range(shard * size, min((shard + 1) * size, self.settings["rows"]))

    def tokens(self, shard: int) -> int:
        rows = self.contexts(shard)
        return int(self.lengths[rows.start : rows.stop].sum())

    @property
    def content(self) -> str:
        """Checksum of all activations: that of the shards' checksums, which hold those of their parts."""
        return f"{zlib.crc32(repr(self.shards).encode()):08x}"

    @property
    def version(self) -> int:
        if "skip_norm" in self.settings:
            return 3
        return 2 if "skip_tokens" in self.settings else 1

    def path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05}.bin"

    def open(self, shard: int) -> Shard:
        """Raises DamagedShard when the file is missing or its size is wrong."""
        return Shard(self.path(shard), self.tokens(shard), self.shards[shard] or 0, self.layout)

    def write(self) -> None:
        """Write ``index.json`` whole."""
        listed = [
            None if crc is None else {"file": self.path(i).name, "tokens": self.tokens(i), "crc32": crc}
            for i, crc in enumerate(self.shards)
        ]
        body = {
            "format": FORMAT,
            "version": self.version,
            "byte_order": sys.byteorder,
            **self.settings,
            "shards": listed,
        }
        body["index_crc32"] = _index_checksum(body)
        files.write_text(self.folder / "index.json", json.dumps(body, indent=1) + "\n")


def read_index(folder: str | Path) -> Index:
    """Read the index of a store.

    Raises:
        FileNotFoundError: ``folder`` holds no store.
        ValueError: the index is damaged, or of another version of the format.
    """
    folder = Path(folder)
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"folder: {str(folder)!r} holds no activations (no index.json); wanted one written by `monosem harvest`."
            + kinds.describe(folder)
        )
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        known, version, shown = body.pop("format") == FORMAT, body.pop("version"), body
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        known, version, shown, body = False, None, error, {}
    if not known:
        raise ValueError(
            f"folder: {str(path)!r} is not an index of activations ({shown!r:.100}); wanted one of format {FORMAT!r}."
            + kinds.describe(folder)
        )
    if version not in VERSIONS:
        raise ValueError(
            f"folder: {str(path)!r} is of version {version!r}; this monosem reads versions 1 to 3. "
            "Harvest again, or use the monosem that wrote it."
        )
    if body.pop("index_crc32", None) != _index_checksum({"format": FORMAT, "version": version, **body}):
        raise ValueError(
            f"folder: {str(path)!r} was altered (its checksum differs); restore it, or harvest into a new folder"
        )
    if (order := body.pop("byte_order")) != sys.byteorder:
        raise ValueError(
            f"folder: {str(folder)!r} holds {order}-endian numbers, this machine is {sys.byteorder}-endian"
        )
    listed = body.pop("shards")
    return Index(folder, body, [None if shard is None else shard["crc32"] for shard in listed])


def tokens_checksum(tokens: np.ndarray) -> int:
    """CRC-32 of contexts [rows, n_ctx] as int32, for any integer dtype."""
    crc = 0
    for start in range(0, len(tokens), 4096):
        crc = zlib.crc32(np.ascontiguousarray(tokens[start : start + 4096], dtype=np.int32).data, crc)
    return crc


def read_tokens(index: Index) -> np.ndarray:
    """The contexts of a store, int32 [rows, n_ctx], memory-mapped.

    Raises:
        ValueError: the file is missing, cut short or altered.
    """
    path = index.folder / "tokens.npy"
    try:
        tokens = files.read_array(path, "tokens", "wanted the contexts of the store")
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
            damage = f"holds {tokens.dtype} {list(tokens.shape)}; wanted integers [rows, n_ctx]"
        else:
            same = tokens_checksum(tokens) == index.settings["tokens_crc32"]
            damage = "" if same else "was altered (its checksum differs)"
    except (OSError, ValueError) as error:
        tokens, damage = None, f"cannot be read ({error})"
    if tokens is None or damage:
        raise ValueError(
            f"{str(path)!r} {damage}. Run the same `monosem harvest` again: it writes only what is damaged."
        )
    return tokens


def _index_checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
