"""Making an index in one pass, on disk or in memory, so that an interruption costs a minute at most."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from monosem.analysis.index import fingerprint
from monosem.analysis.index.codes import CodeLog
from monosem.analysis.index.collector import Collector
from monosem.analysis.index.index import Index, text_rows
from monosem.analysis.index.settings import IndexSettings
from monosem.analysis.scan import Block, Rows, blocks, check, spread
from monosem.data import files
from monosem.data.counted import skipped_ids

FORMAT = 1
_STATE = "unfinished.safetensors"


def build_index(
    subject: Any, rows: Rows, folder: str | Path | None = None, *, tokens: int | None = None,
    settings: IndexSettings | None = None, marks: Mapping[str, np.ndarray] | None = None,
    notes: Mapping[str, Any] | None = None, checkpoint_seconds: float = 60.0, progress: bool = True,
) -> Index:  # fmt: skip
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
    """
    settings = settings or IndexSettings()
    sae, model, hook_name = subject.sae, subject.model, subject.hook_name
    check(sae, model, hook_name, rows, settings.skip_positions)
    marks = _checked_marks(marks, rows)
    select = spread(rows, tokens)
    meta = {
        "format": FORMAT, "model": model.name, "hook_name": hook_name, "kind": sae.cfg.kind, "d_in": sae.cfg.d_in,
        "d_sae": sae.cfg.d_sae, "d_vocab": model.d_vocab, "dictionary": fingerprint.of_dictionary(sae),
        "text": fingerprint.of_text(rows), "rows": int(np.shape(rows.tokens)[0]), "rows_read": len(select),
        "n_ctx": int(np.shape(rows.tokens)[1]), "sources": list(rows.sources),
        "settings": asdict(settings) | {"skip_tokens": list(skipped_ids(model, settings.skip_tokens))},
        "marks": list(marks), "notes": dict(notes or {}),
    }  # fmt: skip
    collector = Collector(
        sae.cfg.d_sae, sae.cfg.d_in, model.d_vocab, rows.sources, (meta["rows"], meta["n_ctx"]), settings, marks
    )
    run = _Run(collector, subject, rows, select, settings, progress)
    if folder is None:
        run.read(0, lambda done, block: None)
        return Index(meta, collector.finish(), text_rows(rows.tokens, rows.source, rows.sources))
    folder = Path(folder)
    with files.folder_lock(folder):
        if (folder / "index.json").is_file():
            _check_same(folder, "index.json", read_meta(folder), meta)
            return open_index(folder)
        saver = _Saver(folder, collector, meta, checkpoint_seconds)
        run.read(saver.resume(), saver)
        saver.finish(rows)
    return open_index(folder)


class _Run:
    """One pass over the chosen rows."""

    def __init__(self, collector: Collector, subject: Any, rows: Rows, select: np.ndarray, settings: IndexSettings,
                 progress: bool) -> None:  # fmt: skip
        self.collector, self.subject, self.rows, self.select = collector, subject, rows, select
        self.settings, self.progress = settings, progress

    def read(self, done: int, after: Any) -> None:
        """Read the rows from number ``done`` on, calling ``after(rows done, block)`` behind every block."""
        for block in blocks(
            self.subject.sae, self.subject.model, self.subject.hook_name, self.rows, select=self.select, done=done,
            contexts=self.settings.contexts, skip_positions=self.settings.skip_positions,
            skip_tokens=self.settings.skip_tokens, progress="indexing" if self.progress else None,
        ):  # fmt: skip
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
            self.log.open(header["entries"])
        self.before = header["seconds"]
        return header["done"]

    def _header(self) -> dict[str, Any]:
        path = self.folder / _STATE
        if not path.is_file():
            return {"done": 0, "seconds": 0.0, "entries": 0}
        try:
            header = json.loads(files.read_metadata(path)["header"])
            _check_same(self.folder, _STATE, header["meta"], self.meta)
            self.collector.restore(load_file(path))
        except SafetensorError as error:
            raise ValueError(
                f"folder: {str(path)!r} is altered ({error}); remove it, and the index begins anew"
            ) from None
        return header

    def __call__(self, done: int, block: Block) -> None:
        if self.log is not None:
            self.log.add(block.features, block.places, block.values)
        if time.monotonic() < self.due:
            return
        began = time.monotonic()
        entries = 0
        if self.log is not None:
            self.log.sync()
            entries = self.log.count
        header = {"done": done, "meta": self.meta, "seconds": self.spent(), "entries": entries}
        files.write_tensors(self.folder / _STATE, self.collector.arrays(), {"header": json.dumps(header)})
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
        files.write_text(self.folder / "index.json", json.dumps(meta, indent=2, ensure_ascii=False) + "\n")
        (self.folder / _STATE).unlink(missing_ok=True)
        if self.log is not None:
            self.log.discard()


def open_index(folder: str | Path, subject: Any = None) -> Index:
    """Open an index on disk.

    Args:
        subject: the dictionary it must be of; None asks nothing.

    Raises:
        FileNotFoundError: no finished index in the folder.
        ValueError: another format, a file cut short, or an index of another dictionary.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    if subject is not None:
        check_subject(meta, subject, f"folder: {str(folder)!r}")
    arrays = {name: torch.from_numpy(_mapped(folder / f"{name}.npy")) for name in meta["arrays"]}
    source = torch.from_numpy(_mapped(folder / "text.source.npy"))
    tokens = _mapped(folder / "text.tokens.npy")
    return Index(meta, arrays, text_rows(tokens, source, meta["sources"]), folder)


def check_subject(meta: Mapping[str, Any], subject: Any, what: str) -> None:
    """ValueError unless an index is of this dictionary, at this hook of this model."""
    wanted = {
        "model": subject.model.name, "hook_name": subject.hook_name, "d_sae": subject.sae.cfg.d_sae,
        "dictionary": fingerprint.of_dictionary(subject.sae),
    }  # fmt: skip
    for name, value in wanted.items():
        if meta[name] != value:
            raise ValueError(
                f"{what} is an index of another dictionary: {name} is {meta[name]!r} there and {value!r} here. "
                "Build it again with `monosem index`, or open the dictionary it belongs to."
            )


def read_meta(folder: str | Path) -> dict[str, Any]:
    """``index.json`` of a finished index."""
    path = Path(folder) / "index.json"
    if not path.is_file():
        unfinished = (
            " (an unfinished one is there: build it again to go on)" if (path.parent / _STATE).is_file() else ""
        )
        raise FileNotFoundError(
            f"folder: no index in {str(folder)!r}{unfinished}; wanted one written by `monosem index`"
        )
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"folder: {str(path)!r} is altered ({error}); build the index again") from None
    if meta.get("format") != FORMAT:
        raise ValueError(
            f"folder: {str(path)!r} has format {meta.get('format')!r}; this version reads {FORMAT}. "
            "Build the index again."
        )
    return meta


def _check_same(folder: Path, name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    for key, value in here.items():
        if key != "notes" and there.get(key) != value:
            raise ValueError(
                f"folder: {str(folder / name)!r} is of something else: its {key} is {there.get(key)!r}, and {value!r} "
                "is asked for. Choose another folder, or remove that one."
            )


def _checked_marks(marks: Mapping[str, Any] | None, rows: Rows) -> dict[str, np.ndarray]:
    out = {name: np.asarray(mark) for name, mark in (marks or {}).items()}
    for name, mark in out.items():
        if mark.shape != tuple(np.shape(rows.tokens)):
            raise ValueError(f"marks: {name!r} has shape {mark.shape}; wanted {tuple(np.shape(rows.tokens))}")
    return out


def _mapped(path: Path) -> np.ndarray:
    """An array on disk, mapped copy-on-write: PyTorch wants it writable, and the file stays as it is."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"folder: no file {str(path)!r}; build the index again") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"folder: {str(path)!r} is cut short or altered ({error}); build the index again") from None
    return array
