"""Temporary files that a killed run left half written: named after their process, removed by the next writer.

A part is called ``.<name>.<pid>@<host>.part``. It is removed when its process has ended. That of a process on another
machine, which this machine cannot see, is removed when it has not been written to for a day; so is every part on
Windows, where ``os.kill`` would end the process instead of checking it.
"""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path

_NAME = re.compile(r"\..+\.(?P<pid>\d+)(@(?P<host>[^/]+))?\.part")  # versions before wrote no host
_HOST = re.sub(r"[^\w.-]", "_", socket.gethostname()) or "host"
_DAY = 86400.0
_swept: set[str] = set()


def name(path: Path) -> Path:
    """Where this process writes ``path`` before it takes its name."""
    return path.with_name(f".{path.name}.{os.getpid()}@{_HOST}.part")


def sweep_once(folder: Path) -> None:
    """``sweep``, the first time that this process writes to ``folder``."""
    key = os.path.abspath(folder)
    if key not in _swept:
        _swept.add(key)
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove the parts in ``folder`` whose process has ended."""
    try:
        parts = [entry.path for entry in os.scandir(folder) if _NAME.fullmatch(entry.name) and entry.is_file()]
    except OSError:  # the writer reports what is wrong with the folder
        return
    for path in map(Path, parts):
        try:
            if _left(path):
                path.unlink()
        except OSError:  # another run was quicker, or it is not ours to remove
            continue


def _left(path: Path) -> bool:
    known, written = _NAME.fullmatch(path.name), path.stat().st_mtime
    if known is None:
        return False
    if os.name == "nt" or known["host"] not in (None, _HOST):
        return time.time() - written > _DAY
    return not _alive(int(known["pid"]), written)


def _alive(pid: int, since: float) -> bool:
    """Whether the process that wrote at the time ``since`` still runs: its number may have gone to another."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    began = _began(pid)
    return began is None or began <= since + 2  # the clock of a file system may differ by a tick


def _began(pid: int) -> float | None:
    """When a process was started, in seconds since 1970; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        if fields[0] in "ZX":  # killed, and not yet reaped by its parent
            return float("inf")
        return int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError, IndexError):
        return None
