"""The index of activations on disk: what was harvested, the shards that are complete, and how they are opened."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from monosem.data import counted, files, kinds, remote, remote_shards
from monosem.data.remote_shards import RemoteShard
from monosem.data.shards import Layout, Shard

FORMAT = kinds.STORE
# 2: ``skip_tokens`` are left out at every position; before, every context kept the same number of tokens.
# 3: some of the tokens are beyond a limit on the norm, ``skip_norm``, and not to be trained on.
VERSIONS = (1, 2, 3)


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

    def open(self, shard: int, size: int | None = None) -> Shard:
        """Raises DamagedShard when the file is missing or its size (asked for, unless given) is wrong."""
        kind = RemoteShard if remote.is_remote(self.folder) else Shard
        return kind(self.path(shard), self.tokens(shard), self.shards[shard] or 0, self.layout, size)

    def open_all(self) -> list[Shard]:
        """``open`` for all of them."""
        if not remote.is_remote(self.folder):
            return [self.open(i) for i in range(len(self.shards))]
        sizes = remote.sizes(self.folder)
        return [self.open(i, sizes.get(self.path(i).name, -1)) for i in range(len(self.shards))]

    def bits(self, shards: Sequence[Shard], wanted: Mapping[int, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, ``Shard.bits``) of some of all shards, in this order.

        Args:
            wanted: {number: the parts that will be read, ascending}; remote ones are fetched side by side.
        """
        if remote.is_remote(self.folder):
            return cast(Any, remote_shards.opened(cast("Sequence[RemoteShard]", shards), wanted))
        return ((number, shards[number].bits()) for number in wanted)

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
    folder = remote.as_path(folder)
    remote.refresh(folder)
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
