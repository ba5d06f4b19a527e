"""Neuron resampling: the plan, the neurons, and the draw of the inputs from which they restart.

*Towards Monosemanticity*, appendix "Autoencoder Training", "Neuron Resampling". Steps 1 to 3 and the draw of step 4
are here; the writing of steps 4 to 6 is in ``SAE.restart_features`` and the optimizer's ``reset_features``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.nn import SAE
from monosem.train.resample_config import ResampleConfig


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
    before = sae.shard.before(int(dead.sum()))  # dead features of lower shards take the inputs before
    inputs = inputs[before:]
    features = dead.nonzero().flatten()[: len(inputs)]
    inputs = inputs[: len(features)]
    if len(features) or not sae.shard.is_whole:
        sae.restart_features(features, inputs, ~dead, cfg.encoder_factor)
    return features
