"""Learning rate and sparsity penalty as functions of the step."""

from __future__ import annotations

import math

from monosem.train.config import TrainConfig


def learning_rate(cfg: TrainConfig, step: int) -> float:
    """Learning rate of optimizer step ``step`` (0 is the first).

    Linear warm-up, ``lr·(step + 1)/warmup``; then ``lr``; then over the last ``decay`` steps, with
    ``r = (steps - step)/decay`` going from 1 to 0: ``lr·r`` (linear) or ``lr·(1 - cos πr)/2`` (cosine).
    The rate that reaches 0 is that of step ``steps``, the first that is not taken.
    """
    warmup, decay = cfg.duration("lr_warmup"), cfg.duration("lr_decay")
    if step < warmup:
        return cfg.lr * (step + 1) / warmup
    left = cfg.steps - step
    if left >= decay:
        return cfg.lr
    share = max(0.0, left / decay)
    return cfg.lr * (share if cfg.decay_shape == "linear" else (1 - math.cos(math.pi * share)) / 2)


def sparsity_scale(cfg: TrainConfig, step: int) -> float:
    """Factor of the sparsity coefficient at optimizer step ``step``: ``(step + 1)/warmup``, then 1."""
    warmup = cfg.duration("sparsity_warmup")
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
