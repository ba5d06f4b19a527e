"""Folders that lie elsewhere: ``s3://bucket/acts``, ``gs://…``, ``hf://…``, by fsspec, as paths (``UPath``).

A path of this module is a ``pathlib.Path``, or a ``UPath`` that has the methods used here; ``is_remote`` tells. Names
are those of fsspec, chains (``simplecache::s3://…``) included; credentials are where fsspec looks for them. A ``UPath``
brings its own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from monosem.data import extras


def as_path(name: Any, argument: str = "folder") -> Path:
    """The path of a name: local, or remote where it is the address of one.

    Raises:
        ImportError: a package for such addresses is missing; names it.
        ValueError: no file system has such addresses.
    """
    if isinstance(name, Path):
        return name
    if isinstance(name, str):
        if "://" not in name:
            return Path(name)
        if name.startswith("file://"):
            return Path(url2pathname(urlsplit(name).path))
        upath = extras.needed("upath", f"{argument}: got {name!r}, which is not on this machine's disks")
        try:
            name = upath.UPath(name)
            _ = name.fs  # it imports the package for such addresses
        except ValueError as error:
            raise ValueError(
                f"{argument}: got {str(name)!r} ({error}); wanted a folder, or an address that fsspec knows, for "
                "example s3://bucket/folder"
            ) from None
    return Path(name.path) if getattr(name, "protocol", None) in ("", "file", "local") else name


def is_remote(path: Any) -> bool:
    """Whether a path of ``as_path`` is on another machine, or in a place that the operating system does not know."""
    return not isinstance(path, Path)


def refresh(folder: Any) -> None:
    """Forget what a file system has noted of a remote folder: other processes write there too."""
    if is_remote(folder):
        folder.fs.invalidate_cache(folder.path)


def sizes(folder: Any) -> dict[str, int]:
    """{name: bytes} of the files in a remote folder, by one request."""
    refresh(folder)
    listed = folder.fs.ls(folder.path, detail=True)
    return {one["name"].rstrip("/").rpartition("/")[2]: one["size"] for one in listed if one["type"] == "file"}


def write_together(writers: Mapping[Any, Callable[[Path], object]]) -> None:
    """Write files of one remote folder: all are complete on this machine's disk before the first is sent.

    Each is sent under another name and renamed once it is there: no file has its name before it is whole.

    Raises:
        OSError: one could not be written or sent; names it.
    """
    path = next(iter(writers))
    try:
        with tempfile.TemporaryDirectory(prefix="monosem-") as here:
            parts = {path: Path(here) / path.name for path in writers}
            for path, write in writers.items():
                write(parts[path])
            path.parent.mkdir(parents=True, exist_ok=True)
            for path, part in parts.items():
                fs, sent = path.fs, path.path + ".part"
                fs.put_file(str(part), sent)
                fs.move(sent, path.path)
    except OSError as error:
        raise OSError(
            error.errno, f"could not write {str(path)!r} ({error}); what was there before is untouched"
        ) from error


def read_array(path: Any) -> np.ndarray:
    """A NumPy array (``.npy``), brought to this machine: a file without a name, mapped into memory.

    Raises:
        ValueError: it is no array.
    """
    there = tempfile.TemporaryFile()  # noqa: SIM115, its memory is mapped for as long as the array lives
    with path.open("rb") as opened:
        shutil.copyfileobj(opened, there, 1 << 22)
    there.seek(0)
    version = np.lib.format.read_magic(there)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = header(there)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    order = "F" if fortran else "C"
    if not np.prod(shape):
        return np.empty(shape, dtype, order)
    return np.memmap(there, dtype, "r", there.tell(), shape, order)
