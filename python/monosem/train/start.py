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
from monosem.train.checkpoint import Checkpoint, under
from monosem.train.learner import Learner, axes_of
from monosem.train.normaliser import Normaliser
from monosem.train.peers import Alone, Peers
from monosem.train.same_run import keep_measured

Saved = TypeVar("Saved")


@torch.no_grad()
def start_from(
    learners: Sequence[Learner],
    folder: str | Path,
    moments: bool,
    normaliser: Normaliser | None = None,
    peers: Peers | None = None,
) -> JsonDict:
    """Copy the weights of the run in ``folder``; returns a record of it for the new run's files.

    They come from the last checkpoint, or where there is none (what ``monosem.save`` wrote) from the result.
    A run of one autoencoder starts each learner; a run of several starts as many, in order. ``normaliser`` becomes that
    of the checkpoint, whose weights are of activations that it has normalised. Of several processes (``peers``) each
    reads the rows that it holds; a result without a checkpoint, each reads whole.

    Raises:
        FileNotFoundError: neither result nor checkpoint there, or no checkpoint for the moments.
        ValueError: autoencoders of another number, kind or shape, or moments kept in another type.
    """
    folder, peers = Path(folder), peers or Alone()
    steps = peers.saved_steps(folder)
    if moments and not steps:
        raise FileNotFoundError(
            f"start: {str(folder)!r} has no checkpoint, and moments are in checkpoints only; "
            "start without moments (leave out --moments), or name the folder of a whole run"
        )
    if steps:
        saved = peers.load(folder, steps[-1], axes_of(learners))
        return _from_checkpoint(learners, folder, saved, moments, normaliser)
    _check_normalized(folder, "none", normaliser)
    results = _results(folder)
    if not results:
        raise FileNotFoundError(
            f"start: {str(folder)!r} holds neither a dictionary nor a checkpoint; wanted the folder of a run of "
            "`monosem train` or Trainer, or one written by monosem.save"
        )
    saes = [load(path) for path in results]
    for learner, sae in zip(learners, _one_each(saes, learners, folder), strict=True):
        weights = sae.state_dict()
        if sae.cfg.d_sae == learner.sae.cfg.d_sae:
            weights = _held(learner, weights)
        _copy(learner, {"kind": sae.cfg.kind, **asdict(sae.cfg)}, weights, folder)
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
    learners: Sequence[Learner], folder: Path, saved: Checkpoint, moments: bool, normaliser: Normaliser | None
) -> JsonDict:
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
            learner.fast.load_state_dict(parts["adam"])
    return {"folder": str(folder), "steps": saved.step, "moments": moments}


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


def _held(learner: Learner, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of all features as this process has them, which may be a shard of them."""
    if learner.sae.shard.is_whole:
        return weights
    rows, axes = learner.sae.shard.rows(learner.sae.cfg.d_sae), learner.axes()
    return {name: t[rows] if f"sae.{name}" in axes else t for name, t in weights.items()}


def _copy(learner: Learner, saved_sae: JsonDict, weights: dict[str, Tensor], folder: Path) -> None:
    """Copy the weights of an autoencoder with these settings, and the numbers that it found for those left to data."""
    parameters, kind = dict(learner.sae.named_parameters()), saved_sae["kind"]
    there, here = saved_sae.get("d_sae"), learner.sae.cfg.d_sae
    for name, weight in parameters.items():
        saved = weights.get(name)
        if kind != learner.sae.cfg.kind or saved is None or there != here or saved.shape != weight.shape:
            shapes = [None if t is None else list(t.shape) for t in (saved, weight)]
            if not learner.sae.shard.is_whole and f"sae.{name}" in learner.axes():  # of all processes together
                shapes = [None if s is None else [n, *s[1:]] for s, n in zip(shapes, (there, here), strict=True)]
            raise ValueError(
                f"start: {str(folder)!r} holds {kind} with {name} {shapes[0]}; wanted {learner.sae.cfg.kind} with "
                f"{shapes[1]}. Give the same kind, d_in and d_sae."
            )
    for name, weight in learner.sae.state_dict().items():  # buffers that files keep too, such as BatchTopK's threshold
        if name in weights:
            weight.copy_(weights[name])
    keep_measured(learner.sae, saved_sae)
    learner.fast.weights_changed()
    if learner.ema is not None:
        learner.ema.restart()
