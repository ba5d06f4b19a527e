"""The error message of a command: one line, with the files that were given where the error names none."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback

EXPECTED = (ValueError, OSError, RuntimeError, ImportError)  # raised by the package and by the system
SHOW = "MONOSEM_TRACEBACK"


def say(command: str, error: Exception, args: argparse.Namespace) -> int:
    """Print the error as one line, and all of it where ``MONOSEM_TRACEBACK`` is set; returns the exit status."""
    if os.environ.get(SHOW):
        traceback.print_exception(error)
    print(f"monosem {command}: {_line(error, args)}", file=sys.stderr)
    return 2


def _line(error: Exception, args: argparse.Namespace) -> str:
    text = re.sub(r"\s*\n\s*", " ", str(error)).strip()
    if isinstance(error, MemoryError):
        return f"not enough memory{_of(args)} ({text or 'an array did not fit'}); use less, or free some"
    if isinstance(error, RecursionError):
        return f"something is nested too deeply{_of(args)} ({text}); wanted files that monosem wrote"
    if isinstance(error, OSError) and text.startswith("[Errno") and error.filename is not None:
        return _of_the_system(error)
    if isinstance(error, EXPECTED) and text:
        return text
    # No known error ends here: it is a file with unexpected content, or a fault.
    return (
        f"unexpected {type(error).__name__} ({text or 'without a word'}){_of(args)}: a file there may be damaged or of "
        f"another kind; if none is, this is a fault of monosem. {SHOW}=1 shows where it happened."
    )


def _of_the_system(error: OSError) -> str:
    """An error of the system about a path, with the remedy."""
    path = os.fspath(error.filename)
    path = path.decode(errors="replace") if isinstance(path, bytes) else str(path)
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        while path and not os.path.lexists(path):  # the part of it that is there
            path = os.path.dirname(path)
        return f"{path!r} is a file; wanted a folder there, or none. Choose another path, or move the file."
    if isinstance(error, IsADirectoryError):
        return f"{path!r} is a folder; wanted a file. Choose another path."
    if isinstance(error, PermissionError):
        return f"{path!r}: no permission. Choose another path, or change its rights."
    return f"{path!r}: {error.strerror or error}"


def _of(args: argparse.Namespace) -> str:
    """The files and folders among what the user gave."""
    given = [v for value in vars(args).values() for v in (value if isinstance(value, list) else [value])]
    paths = [repr(v) for v in dict.fromkeys(map(str, filter(None, given))) if len(v) < 4096 and _exists(v)]
    return f" with {', '.join(paths)}" if paths else ""


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a NUL in it
        return False
