"""The processes of a run as the training loop sees them: here a single one.

``train/distributed/peers.py`` has those of a mesh. Every process calls the same methods in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from torch import Tensor

from monosem.data.serialization import save
from monosem.nn import SAE
from monosem.nn.config import JsonDict
from monosem.train import checkpoint
from monosem.train.checkpoint import Checkpoint
from monosem.train.interrupt import StopRequest

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Result = TypeVar("Result")


class Peers(Protocol):
    """All processes of a run.

    Attributes:
        is_first: this one writes what a run has once: metrics, the progress bar, the result.
    """

    @property
    def is_first(self) -> bool: ...

    def agree(self, described: Sequence[JsonDict]) -> None:
        """Raise ValueError unless all have the same settings."""
        ...

    def divide(self, source: object, whole: bool) -> None:
        """Let a source that can read no more of each batch than this process's share, or whole ones again."""
        ...

    def share(self, x: Tensor, number: int) -> Tensor:
        """The tokens of batch ``number`` that this process computes; ValueError unless all have the same batch."""
        ...

    def stopping(self, stop: StopRequest) -> bool:
        """Whether any was asked to stop; then ``stop`` says so in each."""
        ...

    def first(self, act: Callable[[], Result]) -> Result | None:
        """Let the first one act; what it raises is raised in all."""
        ...

    def saved_steps(self, folder: Path) -> list[int]:
        """``checkpoint.saved_steps``; ValueError where some see other checkpoints."""
        ...

    def save(self, folder: Path, saved: Checkpoint, axes: dict[str, int]) -> None:
        """Write a checkpoint. ``axes``: which axis of a tensor counts features; a name that it lacks has none."""
        ...

    def load(self, folder: Path, step: int, axes: dict[str, int]) -> Checkpoint:
        """Read a checkpoint, of which every process gets its part."""
        ...

    def write_result(self, sae: SAE, folder: Path, metadata: JsonDict) -> None:
        """Write an autoencoder for ``monosem.load``."""
        ...


class Alone:
    """A single process."""

    is_first = True

    def agree(self, described: Sequence[JsonDict]) -> None:
        pass

    def divide(self, source: object, whole: bool) -> None:
        pass

    def share(self, x: Tensor, number: int) -> Tensor:
        return x

    def stopping(self, stop: StopRequest) -> bool:
        return stop.signal is not None

    def first(self, act: Callable[[], Result]) -> Result:
        return act()

    def saved_steps(self, folder: Path) -> list[int]:
        return checkpoint.saved_steps(folder)

    def save(self, folder: Path, saved: Checkpoint, axes: dict[str, int]) -> None:
        checkpoint.save(folder, saved)

    def load(self, folder: Path, step: int, axes: dict[str, int]) -> Checkpoint:
        return checkpoint.load(folder, step)

    def write_result(self, sae: SAE, folder: Path, metadata: JsonDict) -> None:
        save(sae, folder, metadata)


def peers_of(mesh: DeviceMesh | None, saes: list[SAE]) -> Peers:
    """The processes of a mesh, or this one alone. Raises ValueError for autoencoders that do not go with it."""
    if mesh is None:
        if sharded := [sae for sae in saes if not sae.shard.is_whole]:
            raise ValueError(
                f"mesh: got None for a {sharded[0].cfg.kind} of which this process has {sharded[0].n_held} of "
                f"{sharded[0].cfg.d_sae} features; wanted the mesh that it is sharded over, Trainer(…, mesh=mesh)"
            )
        return Alone()
    from monosem.train.distributed.peers import MeshPeers

    return MeshPeers(mesh, saes)
