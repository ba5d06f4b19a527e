"""Neuron resampling: the plan, the neurons, and the draw of the inputs from which they restart.

*Towards Monosemanticity*, appendix "Autoencoder Training", "Neuron Resampling". Steps 1 to 3 and the draw of step 4
are here; the writing of steps 4 to 6 is in ``SAE.restart_features`` and the optimizer's ``reset_features``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monosem.nn import SAE


@dataclass(frozen=True)
class ResampleConfig:
    """The paper's plan for dead neurons; the defaults are its numbers, meant for a run of 1,000,000 steps of 8,192.

    Attributes:
        at_steps: resample once these many optimizer steps are done.
        window: dead = fired in none of the last ``window`` steps.
        n_inputs: inputs on which the present loss is computed, taken from the stream of activations (see below).
        encoder_factor: norm of a new encoder row, as a share of the mean encoder norm of the neurons alive.

    The inputs are complete batches of the training stream, until there are ``n_inputs`` tokens, which are not trained
    on. The position in the data advances by them, whether or not a neuron is dead: it depends on the plan alone, so a
    resumed run sees the same data. If the stream ends early, the draw is from the inputs so far.
    """

    at_steps: tuple[int, ...] = (25_000, 50_000, 75_000, 100_000)
    window: int = 12_500
    n_inputs: int = 819_200
    encoder_factor: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_steps", tuple(self.at_steps))
        for name in ("window", "n_inputs"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"resample.{name}: got {getattr(self, name)!r}; wanted an integer of at least 1")
        if not self.at_steps or not all(isinstance(step, int) for step in self.at_steps):
            raise ValueError(f"resample.at_steps: got {self.at_steps!r}; wanted step numbers")
        gaps = [b - a for a, b in zip((0, *self.at_steps), self.at_steps, strict=False)]
        if min(gaps) < self.window:
            raise ValueError(
                f"resample.at_steps: got {self.at_steps} with window={self.window}; wanted rising steps at least one "
                "window apart, the first after one window: a neuron must have a whole window in which to fire"
            )
        if not self.encoder_factor > 0:
            raise ValueError(f"resample.encoder_factor: got {self.encoder_factor!r}; wanted a positive number")

    def scaled(self, scale: float, n_inputs: int | None = None) -> ResampleConfig:
        """The same plan with every interval times ``scale``; ``n_inputs`` is kept unless it is given.

        The paper resamples within the first 10 % of its steps: ``ResampleConfig().scaled(steps / 1_000_000)`` is its
        plan in proportion.
        """
        window = max(1, round(self.window * scale))
        at_steps = tuple(max(round(step * scale), window * (i + 1)) for i, step in enumerate(self.at_steps))
        return replace(self, at_steps=at_steps, window=window, n_inputs=n_inputs or self.n_inputs)

    @classmethod
    def for_run(cls, steps: int, batch_size: int, d_sae: int) -> ResampleConfig:
        """The paper's plan for a run of another length: its four times spread over the first half of the steps.

        A short run needs them later than the first 10 %, because neurons die over a number of steps, not over a share
        of the run; at 200,000 steps the times are the paper's. Each draw looks at 1 % of the run's tokens, at least at
        four inputs a feature and at most at the paper's 819,200.
        """
        n_inputs = min(cls.n_inputs, max(4 * d_sae, steps * batch_size // 100))
        return cls().scaled(steps / 200_000, n_inputs)


class InputDraw:
    """Steps 2 to 4 of the paper: draws ``n`` of the first ``cfg.n_inputs`` inputs offered, with p ∝ loss².

    One pass that holds ``n`` inputs at most: each input gets the key ``ln loss² + G``, G a standard Gumbel number, and
    the ``n`` largest keys are drawn. That equals drawing one after the other with p ∝ loss² among those not drawn yet.
    Without replacement, because two neurons with the same start would get the same gradients and stay equal. An input
    of zeros has no direction and is never drawn; nor is one whose loss is 0.

    Attributes:
        rows: the inputs drawn so far, in the order of the draw, [at most n, D].
        missing: tokens still to be offered.
    """

    def __init__(
        self, sae: SAE, n: int, cfg: ResampleConfig, generator: torch.Generator, sparsity_scale: float = 1.0
    ) -> None:
        self._sae, self._n, self._generator, self._scale = sae, n, generator, sparsity_scale
        self.rows = sae.W_dec.new_empty(0, sum(sae.batch_widths))
        self.missing = cfg.n_inputs
        self._keys = torch.empty(0, dtype=torch.float64, device="cpu")

    @torch.no_grad()
    def offer(self, x: Tensor) -> None:
        """Take as many of the inputs ``x`` [N, D] as are missing."""
        x = x[: self.missing]
        self.missing -= len(x)
        if not self._n or not len(x):
            return
        has_direction = (self._sae.source(x) != 0).any(-1) & (self._sae.target(x) != 0).any(-1)
        weights = self._sae.token_losses(x, self._scale).square() * has_direction
        # Random numbers come from the CPU, in float64: the same draw on every device.
        uniform = torch.rand(len(x), generator=self._generator, dtype=torch.float64, device="cpu")
        keys = torch.cat([self._keys, weights.double().cpu().log() - uniform.log().neg().log()])
        best = keys.topk(min(self._n, int((keys > -torch.inf).sum()))).indices
        self.rows = torch.cat([self.rows, x])[best.to(x.device)]
        self._keys = keys[best]


@torch.no_grad()
def write_neurons(sae: SAE, dead: Tensor, inputs: Tensor, cfg: ResampleConfig) -> Tensor:
    """Steps 4 and 5: new rows for the first ``len(inputs)`` features of ``dead`` (bool [F]); returns which, int64.

    Decoder row = the input itself, not the input less the decoder bias, made unit (the paper's words; it leaves the
    question open); encoder row = the same direction with ``encoder_factor`` × the mean norm of the alive; bias 0.
    """
    features = dead.nonzero().flatten()[: len(inputs)]
    if len(features):
        sae.restart_features(features, inputs, ~dead, cfg.encoder_factor)
    return features
