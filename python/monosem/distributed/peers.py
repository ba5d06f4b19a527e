"""The processes of a run, as code sees them that is written for one and for several: who I am, what all have.

Importing this does not import ``torch.distributed``: ``ranks.py`` has several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")
ROUND = 5.0  # seconds that a process works before it hears of the others
PART = 1 << 26  # bytes of memory that an exchange may take beside the arrays


class Peers(Protocol):
    """See ``ranks.Ranks``, and ``Alone`` for a single process."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def is_first(self) -> bool: ...
    def objects(self, mine: Any) -> list[Any]: ...
    def first(self, act: Callable[[], Result]) -> Result | None: ...
    def together(self, act: Callable[[], Result]) -> Result: ...
    def each(self, act: Callable[[], Result]) -> list[Result]: ...
    def gathered(self, mine: Tensor) -> Tensor: ...
    def add_(self, sums: Tensor) -> None: ...
    def most_(self, values: Tensor) -> None: ...
    def same(self, argument: str, what: str, mine: Any, advice: str) -> None: ...


class Alone:
    """A single process."""

    rank, size, is_first = 0, 1, True

    def objects(self, mine: Any) -> list[Any]:
        return [mine]

    def first(self, act: Callable[[], Result]) -> Result:
        return act()

    def together(self, act: Callable[[], Result]) -> Result:
        return act()

    def each(self, act: Callable[[], Result]) -> list[Result]:
        return [act()]

    def gathered(self, mine: Tensor) -> Tensor:
        return mine[None]

    def add_(self, sums: Tensor) -> None:
        pass

    def most_(self, values: Tensor) -> None:
        pass

    def same(self, argument: str, what: str, mine: Any, advice: str) -> None:
        pass


ALONE = Alone()


def in_parts(array: Tensor, copies: int = 1) -> Iterator[slice]:
    """Parts along the first axis, of which so many copies take 64 MiB of memory."""
    rows = max(1, PART * len(array) // max(1, copies * array.nbytes))
    for first in range(0, len(array), rows):
        yield slice(first, min(first + rows, len(array)))


def part_of(count: int, peers: Peers) -> slice:
    """The consecutive part of so many things that is this process's."""
    return share_of(count, peers.rank, peers.size)


def share_of(count: int, rank: int, size: int) -> slice:
    """The consecutive part of so many things that is a rank's: the first ranks may have one more than the others."""
    each, more = divmod(count, size)
    first = rank * each + min(rank, more)
    return slice(first, first + each + (rank < more))


def in_step(
    peers: Peers,
    items: Iterable[Item],
    act: Callable[[Item], Result],
    heard: Callable[[list[Result]], object] = lambda results: None,
    seconds: float = ROUND,
) -> None:
    """Call ``act`` with each item of this process, which has as many as it has.

    Every few seconds the processes hear of each other: what one raises is raised in all, and one that ended is named,
    long before the last has done its part.

    Args:
        heard: called then with the results of all processes since the last time, by rank.
        seconds: between two such times; 0: after each item.
    """
    iterator, more = iter(items), True

    def some() -> tuple[bool, list[Result]]:
        nonlocal more
        done, until = [], time.monotonic() + seconds
        while more:
            try:
                item = next(iterator)
            except StopIteration:
                more = False
                break
            done.append(act(item))
            if time.monotonic() >= until:
                break
        return more, done

    going = True
    while going:
        said = peers.each(some)
        going = any(more for more, _ in said)
        heard([result for _, done in said for result in done])
