"""Settings of JumpReLU that are left to the data: numbers that follow its scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monosem.nn.base import FREE_NORM, SAE
from monosem.nn.config import AUTO, SAEConfig, check_number

# θ and ε in standard deviations of h at the start, which is normal for random rows: a tenth of the features exceeds θ.
START, WIDTH = 1.3, 0.26
# λ in mean squares of the target about b_dec: of an active feature, and of (L0/target − 1)².
PER_FEATURE, OF_TARGET = 0.007, 0.7


@dataclass(frozen=True)
class Jump:
    """The numbers of a configuration in which some are "auto".

    Attributes:
        l0_coefficient, bandwidth, initial_threshold: λ, ε and the start of θ.
    """

    l0_coefficient: float
    bandwidth: float
    initial_threshold: float


def check(cfg: SAEConfig) -> None:
    """Raise ValueError for a setting that is neither "auto" nor a number of at least 0; ε has to be above it."""
    for name in ("l0_coefficient", "bandwidth", "initial_threshold"):
        if getattr(cfg, name) != AUTO:
            check_number(name, getattr(cfg, name), 0, above=name == "bandwidth")


def jump(cfg: SAEConfig, free: bool, spread: float | None = None, square: float = 1.0) -> Jump:
    """The numbers of a configuration.

    Args:
        free: decoder norms are free.
        spread: standard deviation of h at the start; None: that of inputs of mean square 1.
        square: mean square of the target about b_dec.
    """
    h = spread if spread is not None else FREE_NORM if free else 1.0
    of_penalty = PER_FEATURE if getattr(cfg, "target_l0", None) is None else OF_TARGET
    numbers = {"l0_coefficient": of_penalty * square, "bandwidth": WIDTH * h, "initial_threshold": START * h}
    given = {name: getattr(cfg, name) for name in numbers if getattr(cfg, name) != AUTO}
    return Jump(**(numbers | given))


@torch.no_grad()
def measure(sae: SAE, sample: Tensor) -> None:
    """Give the settings that are "auto" the numbers, to three digits, that suit a training batch.

    Raises:
        ValueError: the batch has no scale, because all of it is 0 or some of it is not finite.
    """
    names = sae.cfg.unmeasured
    if not names:
        return
    source, target = sae.centred(sae.source(sample)).float(), sae.target(sample).float()
    norms = sae.W_enc_rows.float().norm(dim=1)
    of_rows = norms.mean() if sae.shard.is_whole else sae.shard.sum_features(norms.sum()) / sae.cfg.d_sae
    spread = float(source.square().mean().sqrt() * of_rows)
    square = float((target - sae.b_dec.float()).square().mean())
    if not (spread > 0 and square > 0 and math.isfinite(spread + square)):
        raise ValueError(
            f"sample: its mean square is {square:g}; wanted activations that are finite and not all 0, by which "
            f"{', '.join(names)} are chosen. Give numbers for them, or another batch."
        )
    numbers = jump(sae.cfg, not sae.has_unit_rows, spread, square)
    found = {name: float(f"{getattr(numbers, name):.3g}") for name in names}
    sae.cfg = replace(sae.cfg, **found)
    if "initial_threshold" in found:
        dict(sae.named_parameters())["threshold"].fill_(found["initial_threshold"])
