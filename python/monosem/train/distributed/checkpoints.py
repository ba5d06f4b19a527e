"""Checkpoints of a mesh: every process writes the rows that it holds, by ``torch.distributed.checkpoint``.

``ckpt-<step>/tensors/`` has a file or more of each process, ``state.json`` everything else and the checksums of all.
They are read by any number of processes, and by one (``train.checkpoint.load``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, Replicate, Shard

from monosem.train import checkpoint
from monosem.train.checkpoint import TENSORS, Checkpoint
from monosem.train.distributed.mesh_shard import rows_of
from monosem.train.distributed.ranks import MeshRanks

OF_RANK = ("rng.", "start.")  # tensors that each process has for itself, under a name with its rank
_OF_RANK_STATE = ("rng", "start")


def save(folder: Path, saved: Checkpoint, axes: Mapping[str, int], peers: MeshRanks) -> None:
    """See ``train.checkpoint.save``. What one process raises is raised in all; earlier checkpoints stand."""
    part = checkpoint.part_of(folder, saved.step)
    peers.first(lambda: checkpoint.begin(folder, saved.step))
    tensors = {}
    for name, tensor in saved.tensors.items():
        if name.startswith(OF_RANK):
            tensors[f"{name}@{peers.rank}"] = tensor
        elif name in axes:
            tensors[name] = _sharded(tensor.detach(), axes[name], peers)
        elif peers.is_first:
            tensors[name] = tensor.detach()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.distributed")
        place = str(part / TENSORS)
        _by_all(lambda: state_dict_saver.save(tensors, checkpoint_id=place), "write", folder, saved.step, peers)
    own = sorted((part / TENSORS).glob(f"__{peers.rank}_*"))
    sums: dict[str, str] = {}
    for each in peers.objects({path.name: checkpoint.sha256(path) for path in own}):
        sums |= each
    ranks = peers.objects({name: saved.state[name] for name in _OF_RANK_STATE if name in saved.state})
    rest = {name: value for name, value in saved.state.items() if name not in _OF_RANK_STATE}
    state = rest | {"ranks": ranks, "axes": dict(axes)}

    def finish() -> None:
        record = part / TENSORS / ".metadata"
        checkpoint.finish(folder, saved.step, state, {"files": sums | {record.name: checkpoint.sha256(record)}})

    peers.first(finish)


def load(folder: Path, step: int, axes: Mapping[str, int], peers: MeshRanks) -> Checkpoint:
    """The checkpoint of any number of processes, with the rows of this one."""
    record = checkpoint.read_record(folder, step, peers.rank, peers.size)
    if "files" not in record:
        return Checkpoint(step, _rows_of_file(checkpoint.path_of(folder, step), axes, peers), record["state"])
    path, state = checkpoint.path_of(folder, step) / TENSORS, record["state"]
    axes = state["axes"]
    known = checkpoint.stored(path)
    rank = peers.rank if peers.rank < len(state["ranks"]) else 0
    wanted: dict[str, Tensor] = {}
    for name, (shape, dtype) in known.items():
        if name in axes:
            rows, axis = rows_of(shape[axes[name]], *_place(peers)), axes[name]
            local = torch.empty(
                [rows.stop - rows.start if i == axis else n for i, n in enumerate(shape)], dtype=dtype, device="cpu"
            )
            wanted[name] = _sharded(local, axis, peers, tuple(shape))
        elif "@" not in name or name.endswith(f"@{rank}"):
            wanted[name] = torch.empty(shape, dtype=dtype, device="cpu")
    _by_all(lambda: state_dict_loader.load(wanted, checkpoint_id=str(path)), "read", folder, step, peers)
    tensors = {n.split("@")[0]: t.to_local() if isinstance(t, DTensor) else t for n, t in wanted.items()}
    return Checkpoint(step, tensors, checkpoint.of_rank(state, rank))


def _by_all(act: Callable[[], object], what: str, folder: Path, step: int, peers: MeshRanks) -> None:
    """What exchanges by itself: a process that is lost is named, and what one process raised is raised in all."""
    try:
        peers.shard.world.call(act)
    except CheckpointException as failed:
        rank, (error, _) = next(iter(failed.failures.items()))
        raise RuntimeError(
            f"rank {rank} could not {what} the checkpoint {str(checkpoint.path_of(folder, step))!r} ({error}); earlier "
            "ones are untouched. Call again: the run resumes from the last one."
        ) from failed


def _place(peers: MeshRanks) -> tuple[int, int]:
    return peers.shard.features.size, peers.shard.features.rank


def _sharded(local: Tensor, axis: int, peers: MeshRanks, shape: tuple[int, ...] | None = None) -> DTensor:
    """The rows of this process as part of the tensor of all."""
    if shape is None:
        d_sae = peers.shard.in_features(local.shape[axis])
        shape = tuple(d_sae if i == axis else n for i, n in enumerate(local.shape))
    names = peers.mesh.mesh_dim_names or ()
    placements = [Shard(axis) if name == "features" else Replicate() for name in names]
    stride = tuple(torch.empty(shape, dtype=local.dtype, device="meta").stride())
    return DTensor.from_local(
        local.contiguous(), peers.mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


def _rows_of_file(path: Path, axes: Mapping[str, int], peers: MeshRanks) -> dict[str, Tensor]:
    """The tensors of one process's checkpoint, of which only the rows of this shard are read."""
    tensors = {}
    with safe_open(path / checkpoint.FILE, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118, it is no mapping
            part = opened.get_slice(name)
            if name in axes:
                rows = rows_of(part.get_shape()[axes[name]], *_place(peers))
                tensors[name] = (part[rows] if axes[name] == 0 else part[:, rows]).clone()
            else:
                tensors[name] = opened.get_tensor(name)
    return tensors
