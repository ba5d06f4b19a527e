"""Making an index in one pass, on disk or in memory, so that an interruption costs a minute at most."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monosem.analysis.index import fingerprint
from monosem.analysis.index.codes import CodeLog
from monosem.analysis.index.collector import Collector
from monosem.analysis.index.index import Index, TextRows
from monosem.analysis.index.settings import IndexSettings
from monosem.analysis.index.shapes import check_shapes
from monosem.analysis.index.stored_arrays import StoredArrays
from monosem.analysis.inputs import Subject
from monosem.analysis.scan import Block, Rows, blocks, check, norm_limit, spread
from monosem.data import files, kinds, sealed
from monosem.data.counted import skipped_ids
from monosem.data.fingerprint import different, of_model, same_weights
from monosem.data.folder_lock import folder_lock
from monosem.data.norm_limit import NormLimit
from monosem.ops.memory import human_bytes

FORMAT = 1
_STATE = "unfinished.safetensors"
_KINDS = {
    "model": str,
    "hook_name": str,
    "d_in": int,
    "d_sae": int,
    "d_vocab": int,
    "dictionary": str,
    "rows": int,
    "rows_read": int,
    "n_ctx": int,
    "sources": list,
    "settings": dict,
    "marks": list,
    "arrays": list,
}
_AGAIN = "remove it, and the index is built anew"


def build_index(
    subject: Subject,
    rows: Rows,
    folder: str | Path | None = None,
    *,
    tokens: int | None = None,
    settings: IndexSettings | None = None,
    marks: Mapping[str, np.ndarray] | None = None,
    notes: Mapping[str, Any] | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
) -> Index:
    """Read text once with a dictionary and keep, for every feature, what all the analyses ask.

    Called again after an interruption it goes on from the last checkpoint and ends with the same bits; called again
    after it is done it opens what is there.

    Args:
        subject: has ``sae``, ``model`` and ``hook_name`` (``load_subject``); a dictionary or a ``NeuronBasis``.
        rows: the text.
        folder: where the index goes; None keeps it in memory only.
        tokens: read about this many, in evenly spaced rows (default: all).
        settings: how much to keep of each feature.
        marks: {name: bool [rows, T]}, further columns of the activation histogram, such as proxies.
        notes: anything JSON can hold; kept in ``meta["notes"]``.
        checkpoint_seconds: least time between two checkpoints; they are rarer where writing one takes long.

    Raises:
        ValueError: the dictionary does not fit the hook, there is no text, or the folder holds an index of something
            else.
        RuntimeError: another run writes to the folder.
        OSError: the disk is too small for the index, or full.
    """
    settings = settings or IndexSettings()
    sae, model, hook_name = subject.sae, subject.model, subject.hook_name
    check(sae, model, hook_name, rows, settings.skip_positions)
    marks = _checked_marks(marks, rows)
    select = spread(rows, tokens)
    limit = norm_limit(settings.skip_norm, sae, model, hook_name, rows, settings.skip_positions, settings.skip_tokens)
    meta = {
        "format": FORMAT,
        "model": model.name,
        "hook_name": hook_name,
        "kind": sae.cfg.kind,
        "d_in": sae.cfg.d_in,
        "d_sae": sae.cfg.d_sae,
        "d_vocab": model.d_vocab,
        "dictionary": fingerprint.of_dictionary(sae),
        "weights": of_model(model),
        "text": fingerprint.of_text(rows),
        "rows": int(np.shape(rows.tokens)[0]),
        "rows_read": len(select),
        "n_ctx": int(np.shape(rows.tokens)[1]),
        "sources": list(rows.sources),
        "settings": _stored(settings, skipped_ids(model, settings.skip_tokens), limit),
        "marks": list(marks),
        "notes": dict(notes or {}),
    }
    collector = Collector(
        sae.cfg.d_sae, sae.cfg.d_in, model.d_vocab, rows.sources, (meta["rows"], meta["n_ctx"]), settings, marks
    )
    run = _Run(collector, subject, rows, select, settings, progress, limit)
    if folder is None:
        run.read(0, lambda done, block: None)
        return Index(meta, collector.finish(), TextRows(rows.tokens, rows.source, rows.sources))
    folder = Path(folder)
    with folder_lock(folder):
        if (folder / "index.json").is_file():
            _check_same(folder, "index.json", read_meta(folder), meta)
            return open_index(folder)
        saver = _Saver(folder, collector, meta, checkpoint_seconds)
        done = saver.resume()
        if done < len(select):
            _check_disk(folder, saver, run, progress)
        run.read(done, saver)
        saver.finish(rows)
    return open_index(folder)


def _stored(settings: IndexSettings, skip_tokens: Sequence[int], limit: NormLimit | None) -> dict[str, Any]:
    """The settings, for files: names and measured values resolved. Without a limit they are those of older files."""
    stored = asdict(settings) | {"skip_tokens": list(skip_tokens)}
    del stored["skip_norm"]
    return stored if limit is None else stored | {"skip_norm": limit.to_json()}


def _check_disk(folder: Path, saver: _Saver, run: _Run, progress: bool) -> None:
    """Print the disk space that the index takes, and refuse if it is not free, before hours of reading.

    The activations are those of the tokens that are read, as many a token as in the first rows.

    Raises:
        OSError: the disk has less free space than the index needs.
    """
    state = sum(a.numel() * a.element_size() for a in run.collector.arrays().values())
    needed = 2 * state  # the checkpoint, and the arrays at the end
    if saver.log is not None:
        entries = run.tokens() * run.l0() - saver.log.count
        needed += int(entries * saver.log.bytes_logged) + int((entries + saver.log.count) * saver.log.bytes_sorted)
    free = shutil.disk_usage(folder).free
    said = f"the index takes about {human_bytes(needed)} of disk, {human_bytes(free)} are free"
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"folder: {str(folder)!r}: {said}. Free some space, choose another folder, read fewer tokens, or keep no "
            "codes (IndexSettings(codes=False))",
        )
    if progress:
        tqdm.write(said, file=sys.stderr)


class _Run:
    """One pass over the chosen rows."""

    def __init__(
        self,
        collector: Collector,
        subject: Subject,
        rows: Rows,
        select: np.ndarray,
        settings: IndexSettings,
        progress: bool,
        limit: NormLimit | None,
    ) -> None:
        self.collector, self.subject, self.rows, self.select = collector, subject, rows, select
        self.settings, self.progress, self.limit = settings, progress, limit

    def tokens(self) -> int:
        """How many tokens the chosen rows have, none left out."""
        return len(self.select) * int(np.shape(self.rows.tokens)[1])

    def l0(self) -> float:
        """Active features per token, in the first few of the chosen rows."""
        first = np.asarray(self.rows.tokens)[self.select[:2]]
        x = self.subject.model.activations(torch.as_tensor(first, device="cpu").long(), self.subject.hook_name)
        return float(self.subject.sae.encode(x.to(self.subject.sae.W_dec)).l0())

    def read(self, done: int, after: Callable[[int, Block], None]) -> None:
        """Read the rows from number ``done`` on, calling ``after(rows done, block)`` behind every block."""
        for block in blocks(
            self.subject.sae,
            self.subject.model,
            self.subject.hook_name,
            self.rows,
            select=self.select,
            done=done,
            contexts=self.settings.contexts,
            skip_positions=self.settings.skip_positions,
            skip_tokens=self.settings.skip_tokens,
            progress="indexing" if self.progress else None,
            limit=self.limit,
        ):
            self.collector.update(block)
            done = int(np.searchsorted(self.select, int(block.row[-1]))) + 1  # rows of padding gave no block
            after(done, block)


class _Saver:
    """Writes the state of a pass every so often, and the index at its end."""

    def __init__(self, folder: Path, collector: Collector, meta: dict[str, Any], seconds: float) -> None:
        self.folder, self.collector, self.meta, self.seconds = folder, collector, meta, seconds
        self.due = time.monotonic() + seconds
        self.started = time.monotonic()
        self.before = 0.0
        self.log = CodeLog(folder, meta["d_sae"], meta["rows"] * meta["n_ctx"]) if meta["settings"]["codes"] else None

    def resume(self) -> int:
        """Take up the last checkpoint; returns how many rows are done."""
        header = self._header()
        if self.log is not None:
            self.log.open(header["entries"], header.get("crc32"))
        self.before = header["seconds"]
        return header["done"]

    def _header(self) -> dict[str, Any]:
        path = self.folder / _STATE
        if not path.is_file():
            return {"done": 0, "seconds": 0.0, "entries": 0}
        metadata = sealed.read_metadata(path, "folder", _AGAIN)
        tensors = sealed.read_tensors(path, "folder", _AGAIN)
        text = metadata.get("header", "")
        if metadata.keys() != {"header"} and metadata.get("sha256") != _state_digest(text, tensors):
            raise ValueError(f"folder: {str(path)!r} is altered (its checksum differs); {_AGAIN}")
        header = json.loads(text)
        _check_same(self.folder, _STATE, header["meta"], self.meta)
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
        about = {"header": header, "sha256": _state_digest(header, tensors)}
        files.write_tensors(self.folder / _STATE, tensors, about)
        self.due = time.monotonic() + max(self.seconds, 20 * (time.monotonic() - began))

    def spent(self) -> float:
        return self.before + time.monotonic() - self.started

    def finish(self, rows: Rows) -> None:
        small = np.uint16 if self.meta["d_vocab"] <= 1 << 16 else np.int32
        files.write_array(self.folder / "text.tokens.npy", np.asarray(rows.tokens).astype(small))
        files.write_array(self.folder / "text.source.npy", np.asarray(rows.source))
        arrays = self.collector.finish()
        for name, array in arrays.items():
            files.write_array(self.folder / f"{name}.npy", array.numpy())
        names = list(arrays)
        if self.log is not None:
            names += [f"codes.{name}" for name in self.log.sort(self.collector.moments.counts.long())]
        meta = self.meta | {"arrays": sorted(names), "seconds": round(self.spent(), 1)}
        there = [f"{name}.npy" for name in (*names, "text.tokens", "text.source")]
        sealed.write(self.folder / "index.json", meta, there=there, indent=2)
        (self.folder / _STATE).unlink(missing_ok=True)
        if self.log is not None:
            self.log.discard()


def open_index(folder: str | Path, subject: Subject | None = None) -> Index:
    """Open an index on disk.

    Args:
        subject: the dictionary it must be of; None asks nothing.

    Raises:
        FileNotFoundError: no finished index in the folder.
        ValueError: another format, a file cut short, or an index of another dictionary.
    """
    folder = Path(folder)
    meta, digests = _read(folder)
    if subject is not None:
        check_subject(meta, subject, f"folder: {str(folder)!r}")
    text = StoredArrays(folder, ["text.source", "text.tokens"], digests)
    arrays = StoredArrays(folder, meta["arrays"], digests)
    for some in (text, arrays):
        check_shapes(meta, some, folder)
    rows = TextRows(text.numpy("text.tokens"), text["text.source"], meta["sources"])
    return Index(meta, arrays, rows, folder)


def check_subject(meta: Mapping[str, Any], subject: Subject, what: str) -> None:
    """ValueError unless an index is of this dictionary, at this hook of this model."""
    if "weights" not in meta:
        warnings.warn_explicit(
            f"{what} was written before indexes knew the weights of their model: whether it is of this "
            f"{subject.model.name!r} cannot be checked",
            RuntimeWarning,
            __file__,
            0,
        )
    wanted = {
        "model": subject.model.name,
        "weights": of_model(subject.model),
        "hook_name": subject.hook_name,
        "d_sae": subject.sae.cfg.d_sae,
        "dictionary": fingerprint.of_dictionary(subject.sae),
    }
    for name in different(meta, wanted):
        other = "model" if name in ("model", "weights") else "dictionary"
        raise ValueError(
            f"{what} is an index of another {other}: {name} is {meta[name]!r} there and {wanted[name]!r} here. "
            f"Build it again with `monosem index`, or open the {other} it belongs to."
        )


def read_meta(folder: str | Path) -> dict[str, Any]:
    """``index.json`` of a finished index."""
    return _read(Path(folder))[0]


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    path = folder / "index.json"
    if not path.is_file():
        unfinished = " (an unfinished one is there: build it again to resume)" if (folder / _STATE).is_file() else ""
        raise FileNotFoundError(
            f"folder: no index in {str(folder)!r}{unfinished}; wanted one written by `monosem index`."
            + kinds.describe(folder)
        )
    if kinds.is_store(folder):
        raise ValueError(
            f"folder: no index of a dictionary in {str(folder)!r}; wanted one written by `monosem index`."
            + kinds.describe(folder)
        )
    meta, digests = sealed.read(path, "folder", "an index written by `monosem index`")
    if meta.get("format") != FORMAT:
        raise ValueError(
            f"folder: {str(path)!r} has format {meta.get('format')!r:.50}; this version reads {FORMAT}. "
            "Build the index again."
        )
    for name, kind in _KINDS.items():
        if not isinstance(meta.get(name), kind):
            raise ValueError(
                f"folder: {str(path)!r} is altered: {name} is {meta.get(name)!r:.50}, wanted {kind.__name__}; "
                "build the index again"
            )
    return meta, digests


def _state_digest(header: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of all that a checkpoint holds; it stands in the same file, which is written whole."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_same(folder: Path, name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    same = same_weights(there.get("weights"), here.get("weights"))
    skipped = {"notes", "model" if same else "weights" if same is None else ""}
    for key, value in here.items():
        if key not in skipped and there.get(key) != value:
            raise ValueError(
                f"folder: {str(folder / name)!r} is of something else: its {key} is {there.get(key)!r}, and {value!r} "
                "is requested. Choose another folder, or remove that one."
            )


def _checked_marks(marks: Mapping[str, Any] | None, rows: Rows) -> dict[str, np.ndarray]:
    out = {name: np.asarray(mark) for name, mark in (marks or {}).items()}
    for name, mark in out.items():
        if mark.shape != tuple(np.shape(rows.tokens)):
            raise ValueError(f"marks: {name!r} has shape {mark.shape}; wanted {tuple(np.shape(rows.tokens))}")
    return out
