"""Features that have stopped firing."""

from __future__ import annotations

import torch
from torch import Tensor


class DeadTracker:
    """Counts, for each of F features, the tokens and the steps since it last fired; never synchronises with the device.

    Both start at 0, so that no feature is dead before it could have fired.
    """

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        self.tokens_since_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.steps_since_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def update(self, fired: Tensor, n_tokens: int) -> None:
        """Count one step of ``n_tokens`` tokens in which the features ``fired`` (bool [F]) had a value > 0."""
        for counter, amount in ((self.tokens_since_fired, n_tokens), (self.steps_since_fired, 1)):
            counter.add_(amount).masked_fill_(fired, 0)

    def dead_for_tokens(self, n_tokens: int) -> Tensor:
        """bool [F]: fired on none of the last ``n_tokens`` tokens."""
        return self.tokens_since_fired >= n_tokens

    def dead_for_steps(self, n_steps: int) -> Tensor:
        """bool [F]: fired in none of the last ``n_steps`` steps (the paper's window of 12,500)."""
        return self.steps_since_fired >= n_steps

    def reset(self, features: Tensor) -> None:
        """Set the counters of ``features`` (int64 [n]) to 0: a neuron just resampled is not dead."""
        self.tokens_since_fired[features] = 0
        self.steps_since_fired[features] = 0

    def state_dict(self) -> dict[str, Tensor]:
        return {"tokens_since_fired": self.tokens_since_fired, "steps_since_fired": self.steps_since_fired}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.tokens_since_fired.copy_(state["tokens_since_fired"])
        self.steps_since_fired.copy_(state["steps_since_fired"])
