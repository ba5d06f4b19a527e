"""A new run that begins with the weights of another, and optionally with its optimizer's moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from monosem.data.serialization import load
from monosem.nn.config import JsonDict
from monosem.train import checkpoint
from monosem.train.checkpoint import under
from monosem.train.learner import Learner
from monosem.train.normaliser import Normaliser
from monosem.train.same_run import keep_measured

Saved = TypeVar("Saved")


@torch.no_grad()
def start_from(
    learners: Sequence[Learner], folder: str | Path, moments: bool, normaliser: Normaliser | None = None
) -> JsonDict:
    """Copy the weights of the run in ``folder``; returns a record of it for the new run's files.

    They come from the last checkpoint, or where there is none (what ``monosem.save`` wrote) from the result.
    A run of one autoencoder starts each learner; a run of several starts as many, in order. ``normaliser`` becomes that
    of the checkpoint, whose weights are of activations that it has normalised.

    Raises:
        FileNotFoundError: neither result nor checkpoint there, or no checkpoint for the moments.
        ValueError: autoencoders of another number, kind or shape, or moments kept in another type.
    """
    folder = Path(folder)
    steps = checkpoint.saved_steps(folder)
    if moments and not steps:
        raise FileNotFoundError(
            f"start: {str(folder)!r} has no checkpoint, and moments are in checkpoints only; "
            "start without moments (leave out --moments), or name the folder of a whole run"
        )
    if steps:
        return _from_checkpoint(learners, folder, steps[-1], moments, normaliser)
    _check_normalized(folder, "none", normaliser)
    results = _results(folder)
    if not results:
        raise FileNotFoundError(
            f"start: {str(folder)!r} holds neither a dictionary nor a checkpoint; wanted the folder of a run of "
            "`monosem train` or Trainer, or one written by monosem.save"
        )
    saes = [load(path) for path in results]
    for learner, sae in zip(learners, _one_each(saes, learners, folder), strict=True):
        _copy(learner, {"kind": sae.cfg.kind, **asdict(sae.cfg)}, sae.state_dict(), folder)
    return {"folder": str(folder), "steps": saes[0].metadata.get("steps"), "moments": False}


def _results(folder: Path) -> list[Path]:
    """The folders of a run's result: itself, or ``0``, ``1``, … below it."""
    if (folder / "cfg.json").is_file():
        return [folder]
    folders = []
    while (folder / str(len(folders)) / "cfg.json").is_file():
        folders.append(folder / str(len(folders)))
    return folders


def _check_normalized(folder: Path, there: str, normaliser: Normaliser | None) -> None:
    here = "none" if normaliser is None else normaliser.kind
    if there != here:
        takes = "activations as they are" if there == "none" else f"activations normalised by {there!r}"
        raise ValueError(
            f"normalize: got {here!r}, and the weights of {str(folder)!r} take {takes}; wanted {there!r}, to begin "
            f"with them. Give normalize={there!r} (--normalize {there})."
        )


def _from_checkpoint(
    learners: Sequence[Learner], folder: Path, step: int, moments: bool, normaliser: Normaliser | None
) -> JsonDict:
    saved = checkpoint.load(folder, step)
    _check_normalized(folder, saved.state["run"][0]["train"].get("normalize", "none"), normaliser)
    if normaliser is not None:
        normaliser.load_state_dict(under(saved.tensors, "normaliser."), learners[0].sae.W_dec.device)
    runs = list(enumerate(saved.state["run"]))
    for learner, (i, run) in zip(learners, _one_each(runs, learners, folder), strict=True):
        parts = {name: under(saved.tensors, f"{i}.{name}.") for name in ("sae", "adam")}
        _copy(learner, run["sae"], parts["sae"] | under(parts["adam"], "buffer."), folder)
        if moments:
            saved_state = run["train"].get("adam_state", "fp32")
            own_state = learner.cfg.adam_state
            if saved_state != own_state:
                raise ValueError(
                    f"start: the moments of {str(folder)!r} are kept in {saved_state}, this run keeps {own_state}; "
                    f"wanted the same. Set adam_state={saved_state!r} (--adam-state {saved_state}), or start without "
                    "moments."
                )
            learner.fast.load_state_dict(_held(learner, "adam", parts["adam"]))
    return {"folder": str(folder), "steps": step, "moments": moments}


def _one_each(saved: list[Saved], learners: Sequence[Learner], folder: Path) -> list[Saved]:
    """One saved autoencoder for each learner."""
    if len(saved) == 1:
        return saved * len(learners)
    if len(saved) != len(learners):
        raise ValueError(
            f"start: {str(folder)!r} holds {len(saved)} autoencoders, this run has {len(learners)}; wanted one, or as "
            f"many. Name one of them: {str(folder / '0')!r}."
        )
    return saved


def _held(learner: Learner, part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of all features as this process has them, which may be a shard of them."""
    if learner.sae.shard.is_whole:
        return tensors
    rows, axes = learner.sae.shard.rows(learner.sae.cfg.d_sae), learner.axes()
    return {
        name: t.narrow(axes[f"{part}.{name}"], rows.start, rows.stop - rows.start) if f"{part}.{name}" in axes else t
        for name, t in tensors.items()
    }


def _copy(learner: Learner, saved_sae: JsonDict, weights: dict[str, Tensor], folder: Path) -> None:
    """Copy the weights of an autoencoder with these settings, and the numbers that it found for those left to data."""
    parameters, kind = dict(learner.sae.named_parameters()), saved_sae["kind"]
    if saved_sae.get("d_sae") == learner.sae.cfg.d_sae:
        weights = _held(learner, "sae", weights)
    for name, weight in parameters.items():
        saved = weights.get(name)
        if kind != learner.sae.cfg.kind or saved is None or saved.shape != weight.shape:
            shape = None if saved is None else list(saved.shape)
            raise ValueError(
                f"start: {str(folder)!r} holds {kind} with {name} {shape}; wanted {learner.sae.cfg.kind} with "
                f"{list(weight.shape)}. Give the same kind, d_in and d_sae."
            )
    for name, weight in learner.sae.state_dict().items():  # buffers that files keep too, such as BatchTopK's threshold
        if name in weights:
            weight.copy_(weights[name])
    keep_measured(learner.sae, saved_sae)
    learner.fast.weights_changed()
    if learner.ema is not None:
        learner.ema.restart()
