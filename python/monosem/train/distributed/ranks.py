"""The processes of a mesh, as what is written together needs them."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh

from monosem.distributed.ranks import Ranks
from monosem.train.distributed.mesh_shard import MeshShard


class MeshRanks(Ranks):
    """All processes of a mesh.

    Attributes:
        shard: what this process holds.
    """

    def __init__(self, mesh: DeviceMesh, shard: MeshShard) -> None:
        super().__init__(shard.world)
        self.mesh, self.shard = mesh, shard
