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
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from monosem.data import files
from monosem.nn.config import JsonDict

FORMAT = 1
KEEP = 2


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
    target = path_of(folder, checkpoint.step)
    part = folder / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        files.write_tensors(part / "tensors.safetensors", checkpoint.tensors)
        body = json.dumps(
            {"format": FORMAT, "step": checkpoint.step, "sha256": _sha256(part / "tensors.safetensors")}
            | {"state": checkpoint.state}
        )
        # One line of JSON and, on the next, its checksum: of exactly the bytes in the file.
        files.write_text(part / "state.json", body + "\n" + hashlib.sha256(body.encode()).hexdigest() + "\n")
        _sync(part)
        if target.exists():  # the same step, saved before
            _remove(target)
        os.rename(part, target)
        _sync(folder)
    except OSError as error:
        earlier = ", ".join(path_of(folder, s).name for s in saved_steps(folder)) or "none yet"
        raise OSError(
            error.errno,
            f"could not write the checkpoint {str(target)!r} ({error.strerror or error}); earlier checkpoints are "
            f"untouched ({earlier}). Free some space and call again: the run resumes from the last one.",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for step in saved_steps(folder)[:-KEEP]:
        _remove(path_of(folder, step))
    return target


def load(folder: Path, step: int) -> Checkpoint:
    """Read ``<folder>/ckpt-<step>`` and verify it.

    Raises:
        ValueError: it is cut short or altered; the message names the damage and the other checkpoints.
        FileNotFoundError: there is none.
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
    tensors = path / "tensors.safetensors"
    if not tensors.exists():
        raise _damaged(folder, step, "tensors.safetensors is missing")
    if _sha256(tensors) != state["sha256"]:
        raise _damaged(folder, step, "tensors.safetensors was altered or cut short (its checksum differs)")
    return Checkpoint(step, load_file(tensors), state["state"])


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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
