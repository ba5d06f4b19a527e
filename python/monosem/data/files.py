"""Files are written completely or not at all: a temporary neighbour, fsync, rename."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from monosem.data import parts_of_runs, remote
from monosem.ops.memory import human_bytes

_UMASK = os.umask(0)
os.umask(_UMASK)


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary path beside ``path`` and rename it into place once it is safely on disk.

    After any failure (a full disk, Ctrl-C, a crash), the old file at ``path`` stays as it was.
    """
    write_together({remote.as_path(path, "path"): write})


def write_together(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write files of one folder that belong together: all are safely on disk before the first takes its name."""
    if remote.is_remote(next(iter(writers))):
        return remote.write_together(writers)
    parts = {path: parts_of_runs.name(path) for path in writers}
    path = next(iter(writers))
    try:
        parts_of_runs.sweep_once(path.parent)
        for path, write in writers.items():
            write(parts[path])
            with parts[path].open("rb+") as done:  # Windows syncs only files open for writing
                os.fsync(done.fileno())
            parts[path].chmod(0o666 & ~_UMASK)  # safetensors makes files that only their owner may read
        for path, part in parts.items():
            os.replace(part, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {str(path)!r} ({error.strerror or error}); what was there before is untouched. "
            "Free some space or choose another folder.",
        ) from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write a NumPy array (``.npy``) atomically."""

    def write(part: Path) -> None:
        with part.open("wb") as out:
            np.save(out, array)

    write_whole(path, write)


def write_rows(path: str | Path, blocks: Iterable[np.ndarray], dtype: type, width: int) -> None:
    """Write a NumPy array [rows, width] atomically, from blocks of rows that are not held in memory."""
    path = Path(path)
    bare = parts_of_runs.name(path.with_name(path.name + ".rows"))  # the header before them has their number

    def write(part: Path) -> None:
        with bare.open("wb") as out:
            for block in blocks:
                out.write(np.ascontiguousarray(block, dtype).data)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        rows = bare.stat().st_size // (width * np.dtype(dtype).itemsize)
        with part.open("wb") as out, bare.open("rb") as rest:
            np.lib.format.write_array_header_1_0(out, header | {"shape": (rows, width)})
            shutil.copyfileobj(rest, out, 1 << 22)

    try:
        write_whole(path, write)
    finally:
        bare.unlink(missing_ok=True)


def read_array(path: Path, argument: str, advice: str, *, mode: Literal["r", "r+", "c"] = "r") -> np.ndarray:
    """A NumPy array, memory-mapped; a remote one is brought to this machine first, and not to be written to.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut short, or no array; names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: no file {str(path)!r}; {advice}")
    try:
        if remote.is_remote(path):
            return remote.read_array(path)
        return np.load(path, mmap_mode=mode, allow_pickle=False)
    except OSError:  # names the file itself
        raise
    except Exception as error:  # NumPy reads the header as Python: what a damaged one raises depends on where it is
        raise ValueError(f"{argument}: {str(path)!r} is cut short or altered ({error}); {advice}") from None


def new_map(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A new ``.npy`` file, mapped for writing, with all its space allocated on disk.

    Without that a disk that fills up would end the process by a signal at some later write.

    Raises:
        OSError: the disk has no room for it; says how much it needs. Nothing is left there.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        with path.open("wb") as out:
            np.lib.format.write_array_header_1_0(out, header)
            out.flush()
            allocate(out.fileno(), out.tell() + size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"could not write {str(path)!r}, which needs {human_bytes(size)} ({error.strerror or error}). "
            "Free some space and call again: what was done before is kept.",
        ) from error
    return np.lib.format.open_memmap(path, "r+")


def allocate(descriptor: int, size: int) -> None:
    """Give a file ``size`` bytes that are really there; OSError when the disk is too full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    at = os.lseek(descriptor, 0, os.SEEK_END)
    while at < size:  # systems without fallocate: write zeros
        at += os.write(descriptor, bytes(min(1 << 20, size - at)))


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    write_whole(path, tensor_writer(tensors, metadata))


def tensor_writer(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Callable[[Path], object]:
    """What ``write_together`` calls for a safetensors file."""
    contiguous = {k: v.detach().contiguous() for k, v in tensors.items()}

    def write(part: Path) -> None:
        try:
            save_file(contiguous, part, metadata)
        except SafetensorError as error:  # the library hides the operating system's error (a full disk) in its own
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error

    return write
