"""Whether a folder's checkpoint belongs to this run, and the remaining steps of a run that was made longer."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from monosem.nn import KINDS, SAE
from monosem.nn.config import AUTO, JsonDict, TopKConfig, auto_aux_k
from monosem.nn.registry import configure
from monosem.train.config import TrainConfig
from monosem.train.schedule import learning_rate

# The values of fields that older runs did not save.
_BEFORE = {"adam_state": "fp32", "lazy_rows": False, "normalize": "none"}
# Fields that may change when a run is made longer: a plan of resampling is made for a number of steps.
_GROWS = ("steps", "resample")


def check_same_run(own: list[JsonDict], saved: list[JsonDict], folder: Path) -> bool:
    """Whether this run is the saved one made longer (False: the same).

    Args:
        own, saved: ``Learner.describe()`` of each autoencoder.

    Raises:
        ValueError: it is another run; the message names the differences.
    """
    if len(own) != len(saved):
        raise ValueError(f"folder: {str(folder)!r} holds a run of {len(saved)} autoencoders, this one has {len(own)}")
    own = json.loads(json.dumps(own))
    grown = all(now["train"]["steps"] > old["train"]["steps"] for now, old in zip(own, saved, strict=True))
    differing = [
        f"{part}.{name} is {_saved(old, part, name)!r} there and {now[part].get(name)!r} here"
        for now, old in zip(own, saved, strict=True)
        for part in now
        for name in sorted(now[part].keys() | old[part].keys())
        if now[part].get(name) != _saved(old, part, name) and not (grown and name in _GROWS)
    ]
    if differing:
        raise ValueError(
            f"folder: {str(folder)!r} holds another run: {'; '.join(differing)}. Give the same configuration to go on "
            "with it (steps may grow), or choose another folder; Trainer(..., start=RUN) or `monosem train --from RUN` "
            "begins a new run with the weights of this one."
        )
    return grown


def _saved(run: JsonDict, part: str, name: str) -> object:
    """A setting of a saved run. A field that it did not know has its default, which means: as before there was one."""
    if name in run[part] or name in _BEFORE or part != "sae":
        return run[part].get(name, _BEFORE.get(name))
    kind, settings = run[part]["kind"], {name: value for name, value in run[part].items() if name != "kind"}
    return json.loads(json.dumps(asdict(configure(kind, **settings)))).get(name) if kind in KINDS else None


def keep_measured(sae: SAE, saved: JsonDict) -> None:
    """Give settings that are left to the data the numbers of a saved autoencoder (kind and settings).

    A penalty of another form, with a target or without or with another, gets a coefficient of its own by the data.
    """
    if saved["kind"] != sae.cfg.kind:
        return
    names = set(sae.cfg.unmeasured)
    if saved.get("target_l0") != getattr(sae.cfg, "target_l0", None):
        names.discard("l0_coefficient")
    sae.cfg = replace(sae.cfg, **{name: saved[name] for name in names if saved.get(name, AUTO) != AUTO})


def keep_older_default(sae: SAE, saved: JsonDict) -> bool:
    """Keep d_in // 2 features for AuxK in a run that began when that was the default; whether the number differs."""
    cfg = sae.cfg
    if not isinstance(cfg, TopKConfig) or saved.get("kind") != cfg.kind or saved.get("aux_k", 0) is not None:
        return False
    if cfg.aux_k != auto_aux_k(cfg.d_in):
        return False
    sae.cfg = replace(cfg, aux_k=None)
    return cfg.aux_k != cfg.d_in // 2


def rest_of(cfg: TrainConfig, planned: int, done: int) -> str:
    """One line on the steps from ``done`` to ``cfg.steps`` of a run that had ``planned`` steps at first."""
    warmup, decay = cfg.duration("lr_warmup"), cfg.duration("lr_decay")
    parts = [f"the learning rate is {learning_rate(cfg, done):.3g} at step {done}"]
    if done < warmup:
        parts.append(f"rises to {cfg.lr:.3g} until step {warmup}")
    if decay:
        parts.append(f"falls from step {max(done, cfg.steps - decay)} to 0 at step {cfg.steps}")
    resampled = [step for step in cfg.resample.at_steps if step > done] if cfg.resample else []
    if resampled:
        parts.append(f"dead neurons are resampled at {', '.join(map(str, resampled))}")
    return f"steps: {planned} were planned and {done} are done, now {cfg.steps}: {', '.join(parts)}"
