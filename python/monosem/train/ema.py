"""Exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monosem.nn import SAE


class Ema:
    """Keeps ``average ← decay·average + (1 - decay)·weights``, starting from the weights it is given.

    The average of unit vectors is a little shorter than 1. ``copy_to`` writes the average itself, because normalising
    its decoder rows would change the function that the dictionary computes.
    """

    def __init__(self, sae: SAE, decay: float) -> None:
        self.decay = decay
        self._weights, self._declared = dict(sae.named_parameters()), sae.declared()
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Count the present weights once."""
        for name, average in self._averages.items():
            average.lerp_(self._weights[name].to(average.dtype), 1 - self.decay)

    @torch.no_grad()
    def restart(self, features: Tensor | None = None) -> None:
        """Restart the average of ``features`` (in every parameter that has an entry per feature), or of everything.

        A resampled neuron has nothing in common with the dead one that it replaces.
        """
        for name, average in self._averages.items():
            if features is None:
                average.copy_(self._weights[name])
            elif self._declared[name].per_feature:
                average[features] = self._weights[name][features].to(average.dtype)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the averages into a module of the same parameters."""
        for name, weight in module.named_parameters():
            weight.copy_(self._averages[name])

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._averages)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, average in self._averages.items():
            average.copy_(state[name])
