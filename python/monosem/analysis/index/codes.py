"""Every activation of every feature over the text, on disk: written token by token, stored feature by feature."""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from monosem.data import files

_CHUNK = 1 << 22  # entries sorted at a time


class Codes:
    """The activations of each feature, in order of their places: views of memory-mapped arrays.

    Args:
        starts: int64 [F + 1]; the entries of feature f stand at ``starts[f]:starts[f + 1]``.
        places: [nnz], row · length + position. values: fp32 [nnz].
        length: tokens in a row.
    """

    def __init__(self, starts: np.ndarray, places: np.ndarray, values: np.ndarray, length: int) -> None:
        self.starts, self.places, self.values, self.length = starts, places, values, length

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """(places, values) of all tokens on which a feature fires."""
        mine = slice(int(self.starts[feature]), int(self.starts[feature + 1]))
        return self.places[mine], self.values[mine]

    def window(self, feature: int, row: int, first: int, end: int) -> np.ndarray:
        """The feature's activation on the tokens ``first``…``end − 1`` of a row: fp32 [end − first]."""
        places, values = self.of(feature)
        base = row * self.length
        # Bounds of the type of the places: of another, NumPy would copy all places to it for every window.
        low, high = places.searchsorted(np.array([base + first, base + end], places.dtype))
        out = np.zeros(end - first, dtype=np.float32)
        out[places[low:high] - (base + first)] = values[low:high]
        return out


class CodeLog:
    """Entries in the order in which they come, appended to three files, and at the end sorted by feature.

    Args:
        places: how many places the text has.
        name: of the files; those of several processes differ.
    """

    def __init__(self, folder: Path, d_sae: int, places: int, name: str = "unfinished") -> None:
        self.folder, self.d_sae, self.count, self.name = folder, d_sae, 0, name
        self.types = {
            "features": np.dtype(np.uint16 if d_sae <= 1 << 16 else np.int32),
            "places": np.dtype(np.int32 if places < 1 << 31 else np.int64),
            "values": np.dtype(np.float32),
        }

    @property
    def bytes_logged(self) -> int:
        """Of an entry while it is collected."""
        return sum(kind.itemsize for kind in self.types.values())

    @property
    def bytes_sorted(self) -> int:
        """Of an entry at the end."""
        return self.types["places"].itemsize + self.types["values"].itemsize

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.name}.{name}"

    def open(self, count: int, crc32: dict[str, int] | None = None) -> None:
        """Begin behind the first ``count`` entries; what an interrupted run wrote behind them is cut off.

        Args:
            crc32: of those entries, by file; None where a version before wrote none.
        """
        self.count, self.files, self.crc32 = count, {}, dict.fromkeys(self.types, 0)
        for name, kind in self.types.items():
            path = self._path(name)
            path.touch()
            if path.stat().st_size < count * kind.itemsize:
                raise ValueError(f"folder: {str(path)!r} is cut short; remove the folder, and the index is built anew")
            os.truncate(path, count * kind.itemsize)
            with path.open("rb") as opened:
                while part := opened.read(_CHUNK):
                    self.crc32[name] = zlib.crc32(part, self.crc32[name])
            if count and crc32 is not None and self.crc32[name] != crc32.get(name):
                raise ValueError(
                    f"folder: {str(path)!r} is altered (its checksum differs); remove the folder, and the index begins "
                    "anew"
                )
            self.files[name] = path.open("ab")

    def add(self, features: Tensor, places: Tensor, values: Tensor) -> None:
        for name, array in (("features", features), ("places", places), ("values", values)):
            entries = np.ascontiguousarray(array.numpy(), dtype=self.types[name])
            self.crc32[name] = zlib.crc32(entries.data, self.crc32[name])
            try:
                self.files[name].write(entries)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"could not write {str(self._path(name))!r} ({error.strerror or error}) after {self.count:,} "
                    "activations. Free some space and call again: it resumes from the last checkpoint.",
                ) from error
        self.count += len(features)

    def sync(self) -> None:
        """Make sure that all is on disk, before a checkpoint says so."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def entries(self) -> dict[str, np.ndarray]:
        """What is on disk, by file; mapped."""
        return {
            name: np.memmap(self._path(name), kind, "r", shape=(self.count,)) if self.count else np.empty(0, kind)
            for name, kind in self.types.items()
        }

    def beside(self, name: str, count: int) -> CodeLog:
        """The log of another process that reads a part of the same text, to read from."""
        log = copy.copy(self)
        log.name, log.count = name, count
        return log

    def sort(self, counts: Tensor, logs: Sequence[CodeLog] = ()) -> dict[str, Path]:
        """Write the entries feature by feature, each feature's in order of place; returns the files by name.

        Args:
            counts: entries of each feature, of all logs together.
            logs: of all processes, in the order of their parts of the text; none: this one alone.
        """
        self.close()
        starts = np.concatenate([[0], counts.numpy().cumsum()]).astype(np.int64)
        done = {name: self.folder / f"codes.{name}.npy" for name in ("starts", "places", "values")}
        files.write_array(done["starts"], starts)
        out = {name: files.new_map(done[name], self.types[name], (int(starts[-1]),)) for name in ("places", "values")}
        cursor = starts[:-1].copy()
        for log in logs or [self]:
            log._sort_into(out, cursor)
        for array in out.values():
            array.flush()
        return done

    def _sort_into(self, out: dict[str, np.memmap], cursor: np.ndarray) -> None:
        """Append the entries of each feature to its part of ``out``, which is filled up to ``cursor``."""
        entries = self.entries()
        for first in range(0, self.count, _CHUNK):
            chunk = slice(first, min(first + _CHUNK, self.count))
            features = np.asarray(entries["features"][chunk])
            order = np.argsort(features, kind="stable")
            features = features[order].astype(np.int64)
            sizes = np.bincount(features, minlength=self.d_sae)
            to = (cursor - (sizes.cumsum() - sizes))[features] + np.arange(len(features))
            for name, array in out.items():
                array[to] = entries[name][chunk][order]
            cursor += sizes

    def discard(self) -> None:
        for name in self.types:
            self._path(name).unlink(missing_ok=True)


def stored(arrays: Mapping[str, Tensor], length: int) -> Codes | None:
    """The codes among an index's arrays, or None."""
    if "codes.starts" not in arrays:
        return None
    starts, places, values = (arrays[f"codes.{name}"].numpy() for name in ("starts", "places", "values"))
    return Codes(starts, places, values, length)
