"""The files of an index that is being made: the state of a pass every so often, and the index at its end."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.index.codes import CodeLog
from monosem.analysis.index.collector import Collector
from monosem.analysis.scan import Block, Rows
from monosem.data import files, sealed
from monosem.data.fingerprint import same_weights
from monosem.distributed.peers import Peers, part_of

UNFINISHED = "unfinished"  # how the names of its files begin
_AGAIN = "remove it, and the index is built anew"


class Saver:
    """Writes the state of a pass every so often, and the index at its end.

    Of several processes each writes the state of its own part of the text, and the first one the index.
    """

    def __init__(self, folder: Path, collector: Collector, meta: dict[str, Any], seconds: float, peers: Peers) -> None:
        self.folder, self.collector, self.meta, self.seconds = folder, collector, meta, seconds
        self.peers = peers
        self.name = UNFINISHED if peers.size == 1 else f"{UNFINISHED}.{peers.rank}-of-{peers.size}"
        self.state = folder / f"{self.name}.safetensors"
        self.due = time.monotonic() + seconds
        self.started = time.monotonic()
        self.before = 0.0
        self.log = None
        if meta["settings"]["codes"] or peers.size > 1:  # what several have read is replayed from it
            self.log = CodeLog(folder, meta["d_sae"], meta["rows"] * meta["n_ctx"], self.name)

    def resume(self) -> int:
        """Take up the last checkpoint; returns how many rows are done.

        Raises:
            ValueError: it is of something else, of another number of processes, or altered.
        """
        self._check_processes()
        header = self._header()
        if self.log is not None:
            self.log.open(header["entries"], header.get("crc32"))
        self.before = header["seconds"]
        return header["done"]

    def _check_processes(self) -> None:
        """An index that several processes have begun is finished by as many: each goes on with its own part."""
        for path in sorted(self.folder.glob(f"{UNFINISHED}*.safetensors")):
            of = re.fullmatch(rf"{UNFINISHED}\.\d+-of-(\d+)\.safetensors", path.name)
            there = int(of[1]) if of else 1
            if there != self.peers.size:
                raise ValueError(
                    f"folder: {str(self.folder)!r} holds an index that {there} processes have begun; wanted as many, "
                    f"and there are {self.peers.size}. Go on with {there}, or remove its files {UNFINISHED}*."
                )

    def _header(self) -> dict[str, Any]:
        path = self.state
        if not path.is_file():
            return {"done": 0, "seconds": 0.0, "entries": 0}
        metadata = sealed.read_metadata(path, "folder", _AGAIN)
        tensors = sealed.read_tensors(path, "folder", _AGAIN)
        text = metadata.get("header", "")
        if metadata.keys() != {"header"} and metadata.get("sha256") != _digest(text, tensors):
            raise ValueError(f"folder: {str(path)!r} is altered (its checksum differs); {_AGAIN}")
        header = json.loads(text)
        check_same(self.folder, path.name, header["meta"], self.meta)
        self.collector.restore(tensors)
        return header

    def __call__(self, done: int, block: Block) -> None:
        if self.log is not None:
            self.log.add(block.features, block.places, block.values)
        if time.monotonic() < self.due:
            return
        began = time.monotonic()
        state: dict[str, Any] = {"entries": 0}
        if self.log is not None:
            self.log.sync()
            state = {"entries": self.log.count, "crc32": dict(self.log.crc32)}
        header = json.dumps({"done": done, "meta": self.meta, "seconds": self.spent(), **state})
        tensors = self.collector.arrays()
        about = {"header": header, "sha256": _digest(header, tensors)}
        files.write_tensors(self.state, tensors, about)
        self.due = time.monotonic() + max(self.seconds, 20 * (time.monotonic() - began))

    def spent(self) -> float:
        return self.before + time.monotonic() - self.started

    def finish(self, rows: Rows, select: np.ndarray, block_rows: int) -> None:
        """Put together what the processes have read, and write the index.

        Args:
            select: the rows that all have read, ``block_rows`` at a time.
        """
        logs = self._together(rows, select, block_rows) if self.peers.size > 1 else []
        self.peers.first(lambda: self._write(rows, logs))
        self.peers.together(self._discard)

    def _together(self, rows: Rows, select: np.ndarray, block_rows: int) -> list[CodeLog]:
        log = self.log
        assert log is not None
        self.peers.together(log.sync)
        logs = [log.beside(name, count) for name, count in self.peers.objects((log.name, log.count))]
        own = part_of(self.collector.d_sae, self.peers)
        tokens = torch.from_numpy(np.asarray(rows.tokens).reshape(-1))

        def replay() -> None:
            for features, values, places in blocks_of(logs, select, self.meta["n_ctx"], block_rows):
                self.collector.replay(features, values, places, tokens, own)

        self.peers.together(replay)
        self.collector.merge(self.peers, own)
        return logs

    def _write(self, rows: Rows, logs: Sequence[CodeLog]) -> None:
        small = np.uint16 if self.meta["d_vocab"] <= 1 << 16 else np.int32
        files.write_array(self.folder / "text.tokens.npy", np.asarray(rows.tokens).astype(small))
        files.write_array(self.folder / "text.source.npy", np.asarray(rows.source))
        arrays = self.collector.finish()
        for name, array in arrays.items():
            files.write_array(self.folder / f"{name}.npy", array.numpy())
        names = list(arrays)
        if self.log is not None and self.meta["settings"]["codes"]:
            names += [f"codes.{name}" for name in self.log.sort(self.collector.moments.counts.long(), logs)]
        meta = self.meta | {"arrays": sorted(names), "seconds": round(self.spent(), 1)}
        there = [f"{name}.npy" for name in (*names, "text.tokens", "text.source")]
        sealed.write(self.folder / "index.json", meta, there=there, indent=2)

    def _discard(self) -> None:
        self.state.unlink(missing_ok=True)
        if self.log is not None:
            self.log.close()
            self.log.discard()


def blocks_of(
    logs: Sequence[CodeLog], select: np.ndarray, n_ctx: int, block_rows: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Features, values and places of the entries of each block, in the order of the text; of those that have some."""
    for log in logs:
        entries = log.entries()
        firsts = (select[::block_rows] * n_ctx).astype(entries["places"].dtype)
        edges = np.unique([*entries["places"].searchsorted(firsts), log.count])
        for first, last in pairwise(edges.tolist()):
            part = {name: np.array(array[first:last]) for name, array in entries.items()}
            features, places = (torch.from_numpy(part[name].astype(np.int64)) for name in ("features", "places"))
            yield features, torch.from_numpy(part["values"]), places


def _digest(header: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of all that a checkpoint holds; it stands in the same file, which is written whole."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_same(folder: Path, name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    same = same_weights(there.get("weights"), here.get("weights"))
    skipped = {"notes", "model" if same else "weights" if same is None else ""}
    for key, value in here.items():
        if key not in skipped and there.get(key) != value:
            raise ValueError(
                f"folder: {str(folder / name)!r} is of something else: its {key} is {there.get(key)!r}, and {value!r} "
                "is requested. Choose another folder, or remove that one."
            )
