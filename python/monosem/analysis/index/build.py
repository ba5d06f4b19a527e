"""Making an index in one pass, on disk or in memory, so that an interruption costs a minute at most."""

from __future__ import annotations

import errno
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monosem.analysis.index import fingerprint
from monosem.analysis.index.collector import Collector
from monosem.analysis.index.index import Index, TextRows
from monosem.analysis.index.saver import UNFINISHED, Saver, check_same
from monosem.analysis.index.settings import IndexSettings
from monosem.analysis.index.shapes import check_shapes
from monosem.analysis.index.stored_arrays import StoredArrays
from monosem.analysis.inputs import Subject
from monosem.analysis.scan import (
    Block,
    Rows,
    blocks,
    check,
    norm_limit,
    nothing_counts,
    own_rows,
    rows_at_a_time,
    spread,
)
from monosem.data import kinds, sealed
from monosem.data.counted import TokenFilter, skipped_ids
from monosem.data.fingerprint import different, of_model
from monosem.data.folder_lock import lock_of_all
from monosem.data.norm_limit import NormLimit
from monosem.distributed.peers import ALONE, Peers, in_step
from monosem.ops.memory import human_bytes

FORMAT = 1
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
    peers: Peers = ALONE,
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
        peers: processes that divide the rows among them (``distributed.ranks.of_all()``). All make the same call; the
            index is that of one process, but for the rounding of its sums. As many go on after an interruption.

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
    several = peers.size > 1
    shape = (meta["rows"], meta["n_ctx"])
    collector = Collector(sae.cfg.d_sae, sae.cfg.d_in, model.d_vocab, rows.sources, shape, settings, marks, several)
    run = _Run(collector, subject, rows, select, settings, progress and peers.is_first, limit, peers)
    if folder is None:
        if several:
            raise ValueError(
                f"folder: got None in {peers.size} processes; wanted a folder that all see, in which what each has "
                "read is put together"
            )
        run.read(0, lambda done, block: None)
        return Index(meta, collector.finish(), TextRows(rows.tokens, rows.source, rows.sources))
    folder = Path(folder)
    peers.same("rows", "text, dictionary, model or settings", meta, "Give the same to every process.")
    with lock_of_all(folder, peers):
        if any(peers.each((folder / "index.json").is_file)):
            peers.together(lambda: check_same(folder, "index.json", read_meta(folder), meta))
            return peers.together(lambda: open_index(folder))
        saver = Saver(folder, collector, meta, checkpoint_seconds, peers)
        done = peers.together(saver.resume)
        logged = sum(peers.objects(0 if saver.log is None else saver.log.count))
        if any(peers.objects(done < len(run.own))):
            peers.first(lambda: _check_disk(folder, saver, run, logged))
        run.read(done, saver)
        saver.finish(rows, select, run.block_rows)
    return peers.together(lambda: open_index(folder))


def _stored(settings: IndexSettings, skip_tokens: Sequence[int], limit: NormLimit | None) -> dict[str, Any]:
    """The settings, for files: names and measured values resolved. Without a limit they are those of older files."""
    stored = asdict(settings) | {"skip_tokens": list(skip_tokens)}
    del stored["skip_norm"]
    return stored if limit is None else stored | {"skip_norm": limit.to_json()}


def _check_disk(folder: Path, saver: Saver, run: _Run, logged: int) -> None:
    """Print the disk space that the index takes, and refuse if it is not free, before hours of reading.

    The activations are those of the tokens that are read, as many a token as in the first rows.

    Args:
        logged: how many of them are on disk.

    Raises:
        OSError: the disk has less free space than the index needs.
    """
    state = sum(a.numel() * a.element_size() for a in run.collector.arrays().values())
    needed = (run.peers.size + 1) * state  # the checkpoints, and the arrays at the end
    if saver.log is not None:
        entries = run.tokens() * run.l0() - logged
        needed += int(entries * saver.log.bytes_logged)
        needed += int((entries + logged) * saver.log.bytes_sorted) if run.settings.codes else 0
    free = shutil.disk_usage(folder).free
    said = f"the index takes about {human_bytes(needed)} of disk, {human_bytes(free)} are free"
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"folder: {str(folder)!r}: {said}. Free some space, choose another folder, read fewer tokens, or keep no "
            "codes (IndexSettings(codes=False))",
        )
    if run.progress:
        tqdm.write(said, file=sys.stderr)


class _Run:
    """One pass over the chosen rows, or over those of this process."""

    def __init__(
        self,
        collector: Collector,
        subject: Subject,
        rows: Rows,
        select: np.ndarray,
        settings: IndexSettings,
        progress: bool,
        limit: NormLimit | None,
        peers: Peers,
    ) -> None:
        self.collector, self.subject, self.rows, self.select = collector, subject, rows, select
        self.settings, self.progress, self.limit, self.peers = settings, progress, limit, peers
        self.block_rows = rows_at_a_time(subject.model, settings.contexts)
        self.own = own_rows(select, subject.model, settings.contexts, peers)

    def tokens(self) -> int:
        """How many tokens the chosen rows have, none left out."""
        return len(self.select) * int(np.shape(self.rows.tokens)[1])

    def l0(self) -> float:
        """Active features per token, in the first few of the chosen rows."""
        first = np.asarray(self.rows.tokens)[self.select[:2]]
        x = self.subject.model.activations(torch.as_tensor(first, device="cpu").long(), self.subject.hook_name)
        return float(self.subject.sae.encode(x.to(self.subject.sae.W_dec)).l0())

    def read(self, done: int, after: Callable[[int, Block], None]) -> None:
        """Read the own rows from number ``done`` on, calling ``after(rows done, block)`` behind every block."""

        def add(block: Block) -> None:
            self.collector.update(block)
            # Rows of padding gave no block.
            after(int(np.searchsorted(self.own, int(block.row[-1]))) + 1, block)

        own = blocks(
            self.subject.sae,
            self.subject.model,
            self.subject.hook_name,
            self.rows,
            select=self.own,
            done=done,
            contexts=self.settings.contexts,
            skip_positions=self.settings.skip_positions,
            skip_tokens=self.settings.skip_tokens,
            progress="indexing" if self.progress else None,
            limit=self.limit,
            may_be_empty=self.peers.size > 1,
        )
        in_step(self.peers, own, add)
        if not sum(self.peers.objects(int(self.collector.tokens))):
            ids = skipped_ids(self.subject.model, self.settings.skip_tokens)
            raise nothing_counts(len(self.select), TokenFilter(self.settings.skip_positions, ids, self.limit))


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
        begun = any(folder.glob(f"{UNFINISHED}*.safetensors"))
        unfinished = " (an unfinished one is there: build it again to resume)" if begun else ""
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


def _checked_marks(marks: Mapping[str, Any] | None, rows: Rows) -> dict[str, np.ndarray]:
    out = {name: np.asarray(mark) for name, mark in (marks or {}).items()}
    for name, mark in out.items():
        if mark.shape != tuple(np.shape(rows.tokens)):
            raise ValueError(f"marks: {name!r} has shape {mark.shape}; wanted {tuple(np.shape(rows.tokens))}")
    return out
