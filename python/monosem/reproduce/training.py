"""The stages that train and evaluate the dictionaries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from monosem.analysis.metrics import evaluate
from monosem.data.harvest import ActivationStream
from monosem.nn import registry
from monosem.reproduce.context import Context
from monosem.reproduce.presets import Run
from monosem.reproduce.runner import Stage
from monosem.train.config import TrainConfig
from monosem.train.resample import ResampleConfig
from monosem.train.trainer import Trainer


def stages(runs: Iterable[Run]) -> list[Stage]:
    """One stage per dictionary: train it, then evaluate it on held-out text."""
    return [Stage(stage_of(run.name), f"{run.name}: {run.d_sae:,} features", _work(run)) for run in runs]


def stage_of(name: str) -> str:
    """The stage that trains a dictionary."""
    return f"dictionary-{name.replace('/', '-')}"


def _work(run: Run):
    return lambda context: train(context, run)


def train(context: Context, run: Run) -> dict[str, Any]:
    """Train one dictionary, or resume its training, and evaluate it: the evaluation as plain data."""
    preset = context.preset
    model = context.language_model(run.model)
    rows = context.rows_for(run.model, "train")
    # Another seed for the second model: other tokens in every batch, as in the paper.
    seed = context.seed + (1 if run.model == "B" else 0)
    stream = ActivationStream(model, context.hook_name, rows.tokens, preset.batch_size, seed, epochs=None)
    sae = registry.build(preset.architecture(stream.d_in, run), seed)
    resample = ResampleConfig.for_run(run.steps, preset.batch_size, run.d_sae) if sae.cfg.resampled else None
    config = TrainConfig(
        lr=preset.lr,
        batch_size=preset.batch_size,
        steps=run.steps,
        lazy_rows=run.lazy_rows,
        sparsity_warmup=sae.cfg.sparsity_warmup,
        resample=resample,
        seed=seed,
        dead_after=min(1_000_000, max(1, run.steps * preset.batch_size // 10)),
        checkpoint_every=run.checkpoint_every,
    )
    Trainer(sae, config, context.dictionary(run.name), progress=context.progress).fit(stream)
    result = evaluate(
        sae, model, context.hook_name, context.rows_for(run.model, "held_out"), progress=context.progress
    ).to_dict()
    return {"run": run.name, "steps": run.steps, "batch_size": preset.batch_size, "evaluation": result}
