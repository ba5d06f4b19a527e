"""A run opened again for inspection: autoencoder, optimizer and counters as in its last checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from monosem.data.serialization import load
from monosem.nn import SAE, registry
from monosem.nn.config import JsonDict, from_dict
from monosem.train import checkpoint
from monosem.train.checkpoint import under
from monosem.train.config import TrainConfig
from monosem.train.learner import Learner
from monosem.train.normaliser import Normaliser


@dataclass(frozen=True)
class ReopenedRun:
    """A run as it was saved.

    Attributes:
        learner: further steps change it in memory only; no file of the run is written.
        steps_done: by the run.
        made_of: model, hook and text, as far as the run has recorded them.
        normaliser: of the activations that the autoencoder is trained on; None: it takes them as they are.
    """

    learner: Learner
    steps_done: int
    made_of: JsonDict
    normaliser: Normaliser | None = None


def reopen(folder: str | Path, device: str | torch.device = "cpu", time_phases: bool = False) -> ReopenedRun:
    """Open a run of ``monosem train`` or ``Trainer``, finished or not; one of several by its own folder, ``RUN/0``.

    Without a checkpoint (a dictionary that ``monosem.save`` wrote) the moments and dead counters are those of a new
    run, and settings that the folder does not know are the defaults.

    Raises:
        FileNotFoundError: neither dictionary nor checkpoint there.
        ValueError: a damaged file, or a run of several autoencoders of which none is named.
    """
    folder = Path(folder)
    root, index = _root(folder)
    steps = checkpoint.saved_steps(root)
    if not steps:
        sae = load(folder, device)
        train = sae.metadata.get("train")
        learner = Learner(sae, TrainConfig.from_json(train) if train else TrainConfig(), time_phases)
        return ReopenedRun(learner, int(sae.metadata.get("steps", 0)), sae.metadata)
    saved = checkpoint.load(root, steps[-1])
    runs = saved.state["run"]
    if index is None and len(runs) > 1:
        raise ValueError(
            f"folder: {str(folder)!r} holds a run of {len(runs)} autoencoders; wanted one of them. "
            f"Name its folder, such as {str(folder / '0')!r}."
        )
    run = runs[index or 0]
    if (folder / "cfg.json").is_file():
        sae = load(folder, device)
        made_of = sae.metadata
    else:
        sae, made_of = _of(run["sae"], device), _made_of(saved.state)
    learner = Learner(sae, TrainConfig.from_json(run["train"]), time_phases)
    learner.load_state_dict(under(saved.tensors, f"{index or 0}."))
    normaliser = None
    if learner.cfg.normalize != "none":
        normaliser = Normaliser(learner.cfg.normalize, sae.batch_widths, [sae])
        normaliser.load_state_dict(under(saved.tensors, "normaliser."), sae.W_dec.device)
    return ReopenedRun(learner, saved.step, made_of, normaliser)


def _root(folder: Path) -> tuple[Path, int | None]:
    """The folder with the checkpoints, and the number of the autoencoder in it, if the folder's name has one."""
    if folder.name.isdecimal() and not checkpoint.saved_steps(folder):
        steps = checkpoint.saved_steps(folder.parent)
        if steps and int(folder.name) < len(checkpoint.load(folder.parent, steps[-1]).state["run"]):
            return folder.parent, int(folder.name)
    return folder, None


def _made_of(state: JsonDict) -> JsonDict:
    """The facts about the activations in a checkpoint, by their names in a result."""
    data = state["batches"].get("data", {})
    known = {name: data[name] for name in ("model", "hook_name", "skip_positions") if name in data}
    return known | {"skip_norm": state.get("skip_norm")}


def _of(described: JsonDict, device: str | torch.device) -> SAE:
    kind = registry.find(described["kind"])
    return registry.build(from_dict(kind.Config, {n: v for n, v in described.items() if n != "kind"}), device=device)
