"""The only place that sends tensors to other processes: three collectives, and a count of the bytes that each sends.

A sum is made of an exchange and local additions in the order of ranks: its bits do not depend on the algorithm that a
backend chooses, and every rank has the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from monosem.distributed.lost import LostPeer, Roll

Result = TypeVar("Result")
# The name since PyTorch 2.13, and the one before.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
SMALL = 1 << 15  # bytes up to which every rank sends all of it to every other, once, rather than a part of it twice


class Wire:
    """The ranks along one axis of a mesh.

    Args:
        group: their process group; None: this rank alone.
        device: where tensors are that its backend sends.
        roll: the names of all processes, to tell which of them is lost.
        around: a context for each collective, such as one that times it.

    Attributes:
        size, rank: of this axis.
        sent: bytes that this rank has sent to others.
        calls: collectives that it has taken part in.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None,
        device: torch.device,
        roll: Roll,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._group, self._roll, self.device, self._around = group, roll, device, around
        self.size, self.rank = (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))
        self.sent, self.calls = 0, 0

    def exchanged(self, parts: Tensor) -> Tensor:
        """Row p of parts [P, …] goes to rank p; returns [P, …], row p from rank p."""
        if self.size == 1 or not parts.numel():
            return parts
        given = parts.contiguous()
        got = torch.empty_like(given)
        self.call(lambda: dist.all_to_all_single(_bytes(got), _bytes(given), group=self._group))
        self.sent += given.numel() * given.element_size() * (self.size - 1) // self.size
        return got

    def gathered(self, mine: Tensor) -> Tensor:
        """[P, …], row p from rank p; all have the same shape."""
        if self.size == 1 or not mine.numel():
            return mine.expand(self.size, *mine.shape)
        given = mine.contiguous()
        got = given.new_empty(self.size, *given.shape)
        self.call(lambda: _all_gather(_bytes(got), _bytes(given), group=self._group))
        self.sent += given.numel() * given.element_size() * (self.size - 1)
        return got

    def total(self, mine: Tensor) -> Tensor:
        """The sum over the ranks, in their order."""
        if self.size == 1 or not mine.numel():
            return mine
        if mine.numel() * mine.element_size() <= SMALL:
            return _added(self.gathered(mine))
        n = len(mine)
        each = -(-n // self.size)
        padded = mine.contiguous()
        if each * self.size != n:
            padded = torch.cat([padded, padded.new_zeros(each * self.size - n, *padded.shape[1:])])
        own = _added(self.exchanged(padded.view(self.size, each, *padded.shape[1:])))
        return self.gathered(own).flatten(0, 1)[:n]

    def objects(self, mine: Any) -> list[Any]:
        """An object of every rank, in their order."""
        if self.size == 1:
            return [mine]
        got: list[Any] = [None] * self.size
        self.call(lambda: dist.all_gather_object(got, mine, group=self._group))
        return got

    def call(self, collective: Callable[[], Result]) -> Result:
        """What it returns; LostPeer names the process that is lost where it fails."""
        self.calls += 1
        try:
            with self._around():
                return collective()
        except LostPeer:
            raise
        except RuntimeError as error:  # a peer has closed its connection, or has not answered in time
            raise self._roll.lost(error) from error


def timeout_of(seconds: float) -> timedelta:
    """For ``init_process_group``."""
    if not seconds > 0:
        raise ValueError(f"peer_timeout: got {seconds!r}; wanted seconds above 0")
    return timedelta(seconds=seconds)


def _bytes(t: Tensor) -> Tensor:
    return t.view(-1).view(torch.uint8)


def _added(parts: Tensor) -> Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total
