"""The processes of a mesh: the same settings, batches and end in each, and one of them that writes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

import monosem
from monosem.data.shuffled import DividedSource
from monosem.nn import SAE
from monosem.nn.config import JsonDict
from monosem.train import checkpoint
from monosem.train.checkpoint import Checkpoint
from monosem.train.distributed import checkpoints, kinds, result
from monosem.train.distributed.mesh import shard_of
from monosem.train.distributed.mesh_shard import MeshShard
from monosem.train.distributed.ranks import MeshRanks
from monosem.train.interrupt import StopRequest


class MeshPeers(MeshRanks):
    """See ``train.peers.Peers``. Autoencoders of which each process has all keep their shard alone.

    Args:
        saes: of the same weights in every process, or already of their shard (``kinds.build_shard``).
    """

    def __init__(self, mesh: DeviceMesh, saes: Sequence[SAE]) -> None:
        made = [sae.shard for sae in saes if isinstance(sae.shard, MeshShard)]
        super().__init__(mesh, made[0] if made else shard_of(mesh))
        self._divided = False
        for i, sae in enumerate(saes):
            kinds.check(sae, self.shard.splits_tokens, self.shard.features.size)
            if sae.shard.is_whole:
                sums = [float(p.detach().double().sum()) for p in sae.parameters()]
                self.same("sae", f"weights of autoencoder {i}", sums, "Give the same seed in every process.")
                kinds.keep_shard(sae, self.shard)
            sae.shard = self.shard  # one for all: it counts what is sent, and knows the share of the batch

    def agree(self, described: Sequence[JsonDict]) -> None:
        versions = {"monosem": monosem.__version__, "torch": torch.__version__}
        self.same("version", "versions", versions, "Install the same ones everywhere.")
        flat = {
            (f"{i}." if len(described) > 1 else "") + f"{part}.{name}": value
            for i, each in enumerate(described)
            for part, values in each.items()
            for name, value in values.items()
        }
        self.same("config", "settings", json.loads(json.dumps(flat)), "Give the same ones to every process.")

    def divide(self, source: object, whole: bool) -> None:
        data = self.shard.data
        self._divided = isinstance(source, DividedSource) and source.divide(
            None if whole or data.size == 1 else (data.rank, data.size)
        )

    def share(self, x: Tensor, number: int) -> Tensor:
        known = len(x) and not self._divided  # else this process has no other's rows
        ends = x.detach()[[0, -1]].contiguous().view(torch.uint8).cpu().numpy() if known else None
        crc = 0 if ends is None else zlib.crc32(ends.tobytes())
        mine = torch.tensor([len(x), crc], dtype=torch.int64, device="cpu").to(self._world.device)
        of_all = self._world.gathered(mine).cpu()
        if bool((of_all != of_all[0]).any()):
            rank = int((of_all != of_all[0]).any(1).nonzero()[0])
            raise ValueError(
                f"batch {number}: rank {rank} has {int(of_all[rank, 0])} tokens and rank 0 {int(of_all[0, 0])}, or "
                "others; wanted the same batch in every process, of which each computes its share. Give every process "
                "the same activations, in the same order."
            )
        return self.shard.share(x)

    def stopping(self, stop: StopRequest) -> bool:
        mine = torch.tensor([stop.signal or 0], dtype=torch.int64, device="cpu").to(self._world.device)
        asked = int(self._world.gathered(mine).max())
        if asked:
            stop.signal = stop.signal or asked
        return bool(asked)

    def saved_steps(self, folder: Path) -> list[int]:
        steps = checkpoint.saved_steps(folder)
        advice = "Every process reads and writes them: name a folder of a file system that all see."
        self.same("folder", f"checkpoints in {str(folder)!r}", steps, advice)
        return steps

    def save(self, folder: Path, saved: Checkpoint, axes: dict[str, int]) -> None:
        checkpoints.save(folder, saved, axes, self)

    def load(self, folder: Path, step: int, axes: dict[str, int]) -> Checkpoint:
        return self.together(lambda: checkpoints.load(folder, step, axes, self))

    def write_result(self, sae: SAE, folder: Path, metadata: JsonDict) -> None:
        result.write(sae, folder, metadata, self)
