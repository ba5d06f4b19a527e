"""Several processes: what one raises is raised in all, and sums are the same in all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from monosem.distributed.lost import Roll
from monosem.distributed.peers import in_parts
from monosem.distributed.wire import Wire

Result = TypeVar("Result")


class Ranks:
    """All processes of a run. Each calls the same methods in the same order.

    Attributes:
        rank, size: the number of this process, and of all.
        is_first: this one writes what a run has once.
    """

    def __init__(self, world: Wire) -> None:
        self._world = world
        self.is_first = world.rank == 0

    @property
    def rank(self) -> int:
        return self._world.rank

    @property
    def size(self) -> int:
        return self._world.size

    def objects(self, mine: Any) -> list[Any]:
        """An object of every process, by rank."""
        return self._world.objects(mine)

    def first(self, act: Callable[[], Result]) -> Result | None:
        """Let the first one act; what it raises is raised in all."""
        return self.together(act) if self.is_first else self.together(lambda: None)

    def together(self, act: Callable[[], Result]) -> Result:
        """Let every process act, and raise in each what any of them raised."""
        return self._acted(act, told=False)[0]

    def each(self, act: Callable[[], Result]) -> list[Result]:
        """``together``; returns the results of all, by rank."""
        return self._acted(act, told=True)[1]

    def gathered(self, mine: Tensor) -> Tensor:
        """[P, …], by rank; all have the same shape."""
        return self._world.gathered(mine)

    def add_(self, sums: Tensor) -> None:
        """Put the sum over all processes in the place of each one's part: added in the order of ranks."""
        rows = sums.view(1) if sums.ndim == 0 else sums
        for part in in_parts(rows):
            rows[part] = self._world.total(rows[part])

    def most_(self, values: Tensor) -> None:
        """Put the largest of all processes in the place of each one's value."""
        for part in in_parts(values, self.size):
            values[part] = self._world.gathered(values[part]).amax(0)

    def same(self, argument: str, what: str, mine: Any, advice: str) -> None:
        """Raise ValueError in every process unless all have the same."""
        of_all = self.objects(mine)
        for rank, other in enumerate(of_all):
            if other == of_all[0]:
                continue
            differing = f"{other!r} there and {of_all[0]!r} on rank 0"
            if isinstance(other, dict):
                names = [n for n in other.keys() | of_all[0].keys() if other.get(n) != of_all[0].get(n)]
                differing = "; ".join(
                    f"{n} is {other.get(n)!r} there and {of_all[0].get(n)!r} on rank 0" for n in sorted(names)
                )
            raise ValueError(f"{argument}: rank {rank} has other {what} than rank 0: {differing}. {advice}")

    def _acted(self, act: Callable[[], Result], told: bool) -> tuple[Result, list[Result]]:
        error: Exception | None = None
        got: Any = None
        try:
            got = act()
        except Exception as raised:  # the others must learn of it, whatever it is
            error = raised
        said = self.objects((None if error is None else str(error), got if told and error is None else None))
        if error is not None:
            try:
                raise error
            finally:
                del error  # whose traceback holds this frame
        if failed := [(rank, words) for rank, (words, _) in enumerate(said) if words is not None]:
            raise RuntimeError(f"rank {failed[0][0]}: {failed[0][1]}")
        return got, [result for _, result in said]


def of_all() -> Ranks:
    """The processes of ``torch.distributed``'s group, which is initialised (``init_process_group("gloo")``).

    Every process calls it.

    Raises:
        RuntimeError: no group is initialised.
    """
    if not dist.is_initialized():
        raise RuntimeError(
            "ranks: no group of processes is initialised; wanted torch.distributed.init_process_group first, in each "
            "process. torchrun starts them."
        )
    roll = Roll([dist.group.WORLD])
    world = Wire(dist.group.WORLD, torch.device("cpu"), roll)
    ranks = Ranks(world)
    ranks.objects(None)  # every process has written its name
    roll.names()
    return ranks
