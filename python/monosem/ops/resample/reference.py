"""The definition in plain PyTorch, which every kernel of this operation must match."""

from __future__ import annotations

from torch import Tensor


def resample_(
    w_enc: Tensor,
    w_dec: Tensor,
    b_enc: Tensor,
    moments: list[Tensor],
    features: Tensor,
    inputs: Tensor,
    alive: Tensor,
    factor: float,
) -> None:
    """Features become their inputs' directions: decoder unit, encoder factor × mean alive norm, bias and moments 0."""
    direction = inputs / inputs.norm(dim=-1, keepdim=True)
    norm = w_enc[alive].norm(dim=-1).mean() if alive.any() else w_enc.new_ones(())
    w_dec[features], w_enc[features], b_enc[features] = direction, direction * (factor * norm), 0.0
    for moment in moments:
        moment[features] = 0.0
