"""The processes of a mesh, as what is written together needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch.distributed.device_mesh import DeviceMesh

from monosem.train.distributed.mesh_shard import MeshShard

Result = TypeVar("Result")


class Ranks:
    """All processes of a mesh. Each calls the same methods in the same order.

    Attributes:
        shard: what this process holds.
        is_first: this one writes what a run has once.
    """

    def __init__(self, mesh: DeviceMesh, shard: MeshShard) -> None:
        self.mesh, self.shard = mesh, shard
        self._world = shard.world
        self.is_first = self._world.rank == 0

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
        error: Exception | None = None
        got: Any = None
        try:
            got = act()
        except Exception as raised:  # the others must learn of it, whatever it is
            error = raised
        errors = self.objects(None if error is None else str(error))
        if error is not None:
            raise error
        if failed := [(rank, words) for rank, words in enumerate(errors) if words is not None]:
            raise RuntimeError(f"rank {failed[0][0]}: {failed[0][1]}")
        return got
