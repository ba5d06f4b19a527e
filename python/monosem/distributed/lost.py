"""Which process is lost: named, with its machine, where a collective fails."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import distributed_c10d

PATIENCE = 5.0  # seconds in which those that are alive say so
SETTLED = 2.0  # seconds in which nobody else did


class LostPeer(RuntimeError):
    """Another process has ended or does not answer."""


class Roll:
    """The processes of a run by rank; each writes itself down in the store of ``torch.distributed``.

    When a collective fails, every process that notices it says so there. Those that do not are lost.

    Args:
        groups: of all axes. They are closed by the first failure, so that a process which waits for this one, rather
            than for the one that is lost, notices too.
    """

    def __init__(self, groups: Sequence[dist.ProcessGroup | None]) -> None:
        self._groups = groups
        self._store = distributed_c10d.PrefixStore("monosem", distributed_c10d._get_default_store())
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._names = {}
        self._store.set(f"name/{self._rank}", f"process {os.getpid()} on {socket.gethostname()}")

    def names(self) -> None:
        """Read the names of all; called once they are written."""
        self._names = {rank: self._store.get(f"name/{rank}").decode() for rank in range(self._size)}

    def lost(self, error: Exception) -> LostPeer:
        """What to raise for a collective that failed with ``error``."""
        silent = self._silent()
        named = ", ".join(f"rank {r} ({self._names.get(r, 'not known')})" for r in silent)
        reason = str(error).splitlines()[0].partition(". This is typically")[0]
        if not silent:
            return LostPeer(f"rank {self._rank}: an exchange failed, though every other rank is alive: {reason}")
        return LostPeer(
            f"{named} ended or did not answer, and rank {self._rank} cannot go on without it. Its own messages, or the "
            "exit code that torchrun reports, say why; the same command resumes from the last checkpoint. "
            f"({reason})"
        )

    def _close(self) -> None:
        for group in self._groups:
            if group is not None:
                with suppress(RuntimeError):  # of a group that is closed, or a backend that cannot
                    group.abort()

    def _silent(self) -> list[int]:
        others = [r for r in range(self._size) if r != self._rank]
        try:
            self._store.set_timeout(timedelta(seconds=PATIENCE))
            self._store.set(f"noticed/{self._rank}", "1")
            self._close()
            until = time.monotonic() + PATIENCE
            settled = time.monotonic() + SETTLED
            while others and time.monotonic() < min(until, settled):
                silent = [r for r in others if not self._store.check([f"noticed/{r}"])]
                if len(silent) < len(others):
                    others, settled = silent, time.monotonic() + SETTLED
                time.sleep(0.05)
        except RuntimeError:  # the store ended with the process that holds it
            return [0] if self._rank else others
        return others
