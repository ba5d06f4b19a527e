"""The mesh of processes: data × features."""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from monosem.distributed.lost import Roll
from monosem.distributed.wire import Wire
from monosem.ops.step_stats import within
from monosem.train.distributed.mesh_shard import MeshShard

AXES = ("data", "features")
_WANTED = 'wanted init_device_mesh("cpu" or "cuda", (data, features), mesh_dim_names=("data", "features"))'


def make(shape: tuple[int, int], device: str = "cpu") -> DeviceMesh:
    """The mesh of all processes, data × features.

    Raises:
        ValueError: their number is not the product.
    """
    world = dist.get_world_size()
    if shape[0] * shape[1] != world:
        raise ValueError(
            f"mesh: got {shape[0]} (data) × {shape[1]} (features) = {shape[0] * shape[1]} for {world} processes; "
            f"wanted two numbers whose product is {world}, 1x{world} say. Change it, or --nproc-per-node."
        )
    return init_device_mesh(device, shape, mesh_dim_names=AXES)


def parse(text: str) -> tuple[int, int]:
    """``"2x4"``: 2 (data) × 4 (features). Raises ValueError for anything else."""
    sizes = text.lower().replace("×", "x").split("x")
    if len(sizes) != 2 or not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError(f"mesh: got {text!r}; wanted DATAxFEATURES, two numbers from 1, such as 1x4")
    return int(sizes[0]), int(sizes[1])


def shard_of(mesh: DeviceMesh) -> MeshShard:
    """What this process holds. Every process of the mesh calls it.

    Raises:
        TypeError, ValueError: no mesh with these axes, or it leaves out some processes.
    """
    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh: got {type(mesh).__name__}; {_WANTED}")
    names = mesh.mesh_dim_names or ()
    if not names or set(names) - set(AXES) or "features" not in names:
        raise ValueError(f"mesh: got axes {list(names)}; {_WANTED}")
    if mesh.size() != dist.get_world_size():
        raise ValueError(f"mesh: got {mesh.size()} of {dist.get_world_size()} processes; wanted all. {_WANTED}")
    device = torch.device(mesh.device_type)
    of_axes = {name: mesh.get_group(name) for name in names}
    for group in of_axes.values():
        _wait_as_long(group)
    roll = Roll([*of_axes.values(), dist.group.WORLD])
    made = partial(Wire, device=device, roll=roll, around=partial(within, "exchange"))
    shard = MeshShard(made(of_axes.get("features")), made(of_axes.get("data")), made(dist.group.WORLD))
    shard.count(1)  # every process has written its name
    roll.names()
    return shard


def _wait_as_long(group: dist.ProcessGroup) -> None:
    """Give the time-out of ``init_process_group`` to the group of an axis, which has PyTorch's default otherwise."""
    whole = dist.group.WORLD
    assert whole is not None  # a mesh is made of it
    device = whole._device_types[0]
    if device in group._device_types:
        timeout = whole._get_backend(device).options._timeout
        distributed_c10d._set_pg_timeout(timeout, group)
