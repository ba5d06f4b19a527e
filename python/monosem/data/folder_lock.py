"""One writer per folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

from monosem.data import parts_of_runs, remote
from monosem.distributed.peers import Peers

LOCK, OWNER = ".lock", ".lock.owner"
# Seconds during which a refused lock is retried: its last owner may be removing the file.
PATIENCE = 0.1


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[Path]:
    """Lock ``folder`` (created when absent) for one writer, until the block or its process ends.

    The lock is the operating system's. Where a system or a file system has none, it is a file that names its process:
    a later writer on the same machine sees that the process has ended and takes the lock. Files that killed runs left
    half written in the folder are removed. A remote folder has no lock: only its process is noted there.

    Raises:
        RuntimeError: another run, of this or another process, writes to ``folder``; names its process and machine.
    """
    folder = remote.as_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, owner = folder / LOCK, folder / OWNER
    if remote.is_remote(folder):
        owner.write_text(_this_process(), encoding="utf-8")
        try:
            yield folder
        finally:
            owner.unlink(missing_ok=True)
        return
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 5)
    except filelock.Timeout:
        raise RuntimeError(
            f"folder: {str(folder)!r} is being written to by {_read(owner)}; wanted a folder that no other run "
            "uses. Wait until that run ends, stop it, or choose another folder."
        ) from None
    try:
        owner.write_text(_this_process(), encoding="utf-8")
        parts_of_runs.sweep(folder)
        yield folder
    finally:
        owner.unlink(missing_ok=True)
        if isinstance(lock, filelock.UnixFileLock):  # before the release: the next owner then creates a new file
            with suppress(OSError):
                path.unlink()
        lock.release()


@contextmanager
def lock_of_all(folder: str | Path, peers: Peers) -> Iterator[Path]:
    """``folder_lock`` by the first of several processes, all of which write to ``folder``.

    Raises:
        RuntimeError: as ``folder_lock``, in each process.
        ValueError: a process sees another folder by this name.
    """
    folder = remote.as_path(folder)
    with ExitStack() as held:
        peers.first(lambda: held.enter_context(folder_lock(folder)))
        owner = peers.each(lambda: _read(folder / OWNER))
        if strangers := [rank for rank, words in enumerate(owner) if words != owner[0]]:
            raise ValueError(
                f"folder: {str(folder)!r} of rank {strangers[0]} is not that of rank 0; wanted one that all processes "
                "write to. Name a folder of a file system that all of them see."
            )
        yield folder


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _read(owner: Path) -> str:
    try:
        return owner.read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"
