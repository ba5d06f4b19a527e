"""The paper's autoencoder: ReLU features with an L1 penalty."""

from __future__ import annotations

import torch
from torch import nn

from monosem.nn.activations import ReLU
from monosem.nn.composed import ComposedSAE, Composition
from monosem.nn.config import ReLUConfig
from monosem.nn.penalties import L1
from monosem.nn.registry import register


@register
class ReLUSAE(ComposedSAE):
    r"""``f = ReLU(W_enc·(x − b_dec) + b_enc)``, ``L = mean_D (x − x̂)² + λ·Σ f``, mean over tokens.

    The squared error is a **mean** over the D elements and the penalty a **sum** over features: λ = 0.004 here is the
    paper's 0.004, and equals 0.004·D where the squared error is summed.

    Initialisation: PyTorch's Kaiming-uniform for both matrices, decoder rows then made unit; ``initialize(sample)``
    sets ``b_dec`` to the geometric median. Dead features: ``TrainConfig(resample=...)``.

    Source: *Towards Monosemanticity* (2023), appendices "Autoencoder Architecture" and "Autoencoder Dataset and
    Basic Training".
    """

    Config = ReLUConfig
    cfg: ReLUConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l1_coefficient: float = 1e-3,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(ReLUConfig(d_in, d_sae, l1_coefficient), device, dtype)
        generator = None if seed is None else torch.Generator(self.W_dec.device).manual_seed(seed)
        # The paper's default Kaiming-uniform of nn.Linear: ±1/√fan_in, each matrix with its own fan-in.
        nn.init.uniform_(self.W_enc_rows, -(d_in**-0.5), d_in**-0.5, generator=generator)
        nn.init.uniform_(self.W_dec, -(d_sae**-0.5), d_sae**-0.5, generator=generator)
        self.normalize_decoder()

    @property
    def composition(self) -> Composition:
        return Composition(ReLU(), penalty=L1(self.cfg.l1_coefficient))
