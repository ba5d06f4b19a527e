"""Compressed files, opened by what they hold: gzip, xz and zstd; and what they raise when they are damaged."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any, cast

from monosem.data.extras import needed

SUFFIXES = (".gz", ".xz", ".zst")
_MAGIC = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
DAMAGE = (lzma.LZMAError, EOFError, zlib.error, gzip.BadGzipFile)


def packed_as(path: Path, begin: bytes) -> str:
    """``".gz"``, ``".xz"`` or ``".zst"``, or nothing for a plain file: by its first bytes, or else by its name."""
    of_content = next((suffix for magic, suffix in _MAGIC.items() if begin.startswith(magic)), "")
    return of_content or (path.suffix if path.suffix in SUFFIXES else "")


def open_unpacked(path: Path, begin: bytes) -> IO[bytes]:
    """The content of a file, unpacked as it is read.

    Raises:
        ImportError: it is packed with zstd, and pyarrow, which unpacks it, is not installed.
    """
    how = packed_as(path, begin)
    if how == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if how == ".xz":
        return lzma.open(path, "rb")
    if how == ".zst":
        arrow = needed("pyarrow", f"text: {str(path)!r} is packed with zstd")
        return io.BufferedReader(_Zstd(arrow.input_stream(str(path), compression="zstd")), 1 << 20)
    return path.open("rb")


def damaged(path: Path, begin: bytes, last: str, error: Exception) -> ValueError:
    """The error for a file whose content ended, or made no sense, after its ``last`` good part ("line 12")."""
    return ValueError(
        f"text: {str(path)!r} is damaged or cut short after {last} ({error}); wanted a whole "
        f"{packed_as(path, begin)} file. Get it again."
    )


class _Zstd(io.RawIOBase):
    """Arrow's stream as Python's buffered reader wants one; damage is an ``EOFError``, as of the other formats."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            part = self._stream.read(len(buffer))
        except OSError as error:
            raise EOFError(str(error)) from None
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._stream.close()
        super().close()
