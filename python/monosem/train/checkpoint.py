"""Checkpoints: a folder of safetensors and JSON, written atomically, with checksums.

``<run>/ckpt-<step>/tensors.safetensors`` holds every tensor, ``state.json`` everything else and both checksums.
The folder is written under a hidden name, synced to disk and renamed; the last two are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from monosem.data import files
from monosem.nn.config import JsonDict

FORMAT = 1
KEEP = 2
FILE = "tensors.safetensors"  # of one process
TENSORS = "tensors"  # the folder of several (train/distributed/checkpoints.py)


@dataclass(frozen=True)
class Checkpoint:
    """The state from which a run continues as if it had never stopped."""

    step: int
    tensors: dict[str, Tensor]
    state: JsonDict = field(default_factory=dict)


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def path_of(folder: Path, step: int) -> Path:
    return folder / f"ckpt-{step}"


def saved_steps(folder: Path) -> list[int]:
    """The steps at which ``folder`` has a checkpoint, in ascending order."""
    names = (re.fullmatch(r"ckpt-(\d+)", p.name) for p in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name[1]) for name in names if name)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``<folder>/ckpt-<step>`` atomically, then delete all but the last two. The caller holds the folder's lock.

    Raises:
        OSError: the disk is full, for example; the earlier checkpoints are unchanged.
        TypeError: ``checkpoint.state`` is not JSON.
    """
    with _written(folder, checkpoint.step):
        part = begin(folder, checkpoint.step)
        files.write_tensors(part / FILE, checkpoint.tensors)
        return finish(folder, checkpoint.step, checkpoint.state, {"sha256": sha256(part / FILE)})


def part_of(folder: Path, step: int) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return folder / f".{path_of(folder, step).name}.part"


def begin(folder: Path, step: int) -> Path:
    """Make an empty ``part_of`` for the tensors."""
    part = part_of(folder, step)
    with _written(folder, step):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    return part


def finish(folder: Path, step: int, state: JsonDict, sums: JsonDict) -> Path:
    """Give ``part_of``, which has its tensors, its name; delete all but the last two checkpoints."""
    part, target = part_of(folder, step), path_of(folder, step)
    with _written(folder, step):
        body = json.dumps({"format": FORMAT, "step": step} | sums | {"state": state})
        # One line of JSON and, on the next, its checksum: of exactly the bytes in the file.
        files.write_text(part / "state.json", body + "\n" + hashlib.sha256(body.encode()).hexdigest() + "\n")
        _sync(part)
        if target.exists():  # the same step, saved before
            _remove(target)
        os.rename(part, target)
        _sync(folder)
    for earlier in saved_steps(folder)[:-KEEP]:
        _remove(path_of(folder, earlier))
    return target


@contextmanager
def _written(folder: Path, step: int) -> Iterator[None]:
    """A failure leaves nothing of the checkpoint behind, and the message names those that stand."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(part_of(folder, step), ignore_errors=True)
        if not isinstance(error, OSError) or "could not write the checkpoint" in str(error):
            raise
        earlier = ", ".join(path_of(folder, s).name for s in saved_steps(folder)) or "none yet"
        raise OSError(
            error.errno,
            f"could not write the checkpoint {str(path_of(folder, step))!r} ({error.strerror or error}); earlier "
            f"checkpoints are untouched ({earlier}). Free some space and call again: the run resumes from the last "
            "one.",
        ) from error


def load(folder: Path, step: int) -> Checkpoint:
    """Read ``<folder>/ckpt-<step>`` and verify it.

    Raises:
        ValueError: it is cut short or altered; the message names the damage and the other checkpoints.
        FileNotFoundError: there is none.
    """
    path, record = path_of(folder, step), read_record(folder, step)
    if "files" not in record:
        return Checkpoint(step, load_file(path / FILE), record["state"])
    tensors, state = _whole(path / TENSORS), record["state"]
    return Checkpoint(step, tensors, of_rank(state, 0))


def of_rank(state: JsonDict, rank: int) -> JsonDict:
    """The state that a checkpoint of several processes has for one of them."""
    return {name: value for name, value in state.items() if name not in ("ranks", "axes")} | state["ranks"][rank]


def stored(path: Path) -> dict[str, tuple[list[int], torch.dtype]]:
    """Shape and type of the tensors that several processes wrote."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    known = FileSystemReader(path).read_metadata().state_dict_metadata.items()
    return {name: (list(t.size), t.properties.dtype) for name, t in known if isinstance(t, TensorStorageMetadata)}


def _whole(path: Path) -> dict[str, Tensor]:
    """All features of a checkpoint that several processes wrote; of what each had for itself, the first one's."""
    from torch.distributed.checkpoint import state_dict_loader

    names = {n: t for n, t in stored(path).items() if "@" not in n or n.endswith("@0")}
    tensors = {name: torch.empty(shape, dtype=dtype, device="cpu") for name, (shape, dtype) in names.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.distributed")
        state_dict_loader.load(tensors, checkpoint_id=str(path), no_dist=True)
    return {name.split("@")[0]: tensor for name, tensor in tensors.items()}


def read_record(folder: Path, step: int, rank: int = 0, size: int = 1) -> JsonDict:
    """``state.json`` of a checkpoint whose tensors are unharmed; of ``size`` readers each checks some of the files.

    Raises:
        ValueError, FileNotFoundError: as ``load``.
    """
    path = path_of(folder, step)
    if not path.is_dir():
        steps = ", ".join(map(str, saved_steps(folder))) or "none"
        raise FileNotFoundError(f"resume: {str(path)!r} does not exist; checkpoints there are of the steps {steps}")
    try:
        body, checksum = (path / "state.json").read_text(encoding="utf-8").split("\n")[:2]
    except (FileNotFoundError, UnicodeDecodeError, ValueError):
        raise _damaged(folder, step, "state.json is missing or cut short") from None
    if hashlib.sha256(body.encode()).hexdigest() != checksum:
        raise _damaged(folder, step, "state.json was altered or cut short (its checksum differs)")
    state = json.loads(body)
    if state["format"] != FORMAT:
        raise ValueError(
            f"resume: {str(path)!r} has the format {state['format']}, this version reads format {FORMAT}; "
            "resume it with the version that wrote it, or start in another folder"
        )
    sums = {FILE: state["sha256"]} if "sha256" in state else {f"{TENSORS}/{n}": s for n, s in state["files"].items()}
    for name, checksum in sorted(sums.items())[rank::size] if len(sums) > 1 else sums.items():
        if not (path / name).exists():
            raise _damaged(folder, step, f"{name} is missing")
        if sha256(path / name) != checksum:
            raise _damaged(folder, step, f"{name} was altered or cut short (its checksum differs)")
    return state


def set_aside_after(folder: Path, step: int) -> None:
    """Rename the checkpoints of later steps to ``discarded-ckpt-…``: the user chose to go on from ``step``."""
    for later in saved_steps(folder):
        if later > step:
            aside = folder / f"discarded-{path_of(folder, later).name}"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path_of(folder, later), aside)


def sweep(folder: Path) -> None:
    """Remove the incomplete checkpoints of a killed run. The caller holds the folder's lock."""
    for part in folder.glob(".ckpt-*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _damaged(folder: Path, step: int, damage: str) -> ValueError:
    others = [s for s in saved_steps(folder) if s != step]
    advice = (
        f"To resume from an earlier one, pass resume={max(others)} (--resume-from {max(others)})."
        if others
        else "There is no other one: restore it from a backup, or start in another folder."
    )
    return ValueError(f"resume: the checkpoint {str(path_of(folder, step))!r} is damaged: {damage}. {advice}")


def _remove(path: Path) -> None:
    """Renamed, then deleted: a kill in between leaves no incomplete checkpoint under a valid name."""
    hidden = path.with_name(f".{path.name}.old.part")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _sync(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders; its file systems journal renames
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
