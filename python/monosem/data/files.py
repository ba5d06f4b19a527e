"""Files that are written whole or not at all: a temporary neighbour, fsync, rename."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_whole(path: str | Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary path beside ``path`` and rename it into place once it is safely on disk.

    Whatever goes wrong (a full disk, Ctrl-C, a crash), the old file at ``path`` stays as it was.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as done:
            os.fsync(done.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {str(path)!r} ({error.strerror or error}); what was there before is untouched. "
            "Free some space or choose another folder.",
        ) from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text whole."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write a NumPy array (``.npy``) whole."""

    def write(part: Path) -> None:
        with part.open("wb") as out:
            np.save(out, array)

    write_whole(path, write)


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole."""
    contiguous = {k: v.detach().contiguous() for k, v in tensors.items()}
    write_whole(path, lambda part: save_file(contiguous, part, metadata))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The string metadata of a safetensors file."""
    with safe_open(path, "pt") as opened:
        return opened.metadata() or {}
