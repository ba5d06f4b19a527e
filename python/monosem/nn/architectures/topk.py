"""TopK autoencoder with AuxK for dead features (Gao et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

import torch

from monosem.nn.activations import TopK
from monosem.nn.auxk import AuxK
from monosem.nn.composed import ComposedSAE
from monosem.nn.composition import Composition
from monosem.nn.config import K_ANNEAL, TopKConfig
from monosem.nn.registry import register


def aux_of(cfg: TopKConfig) -> AuxK:
    """AuxK as the configuration says."""
    return AuxK(cfg.aux_k if isinstance(cfg.aux_k, int) else cfg.d_in // 2, cfg.aux_coefficient, cfg.aux_every)


@register
class TopKSAE(ComposedSAE):
    r"""``f = ReLU(TopK(W_enc·(x − b_dec) + b_enc))``, ``L = mean (x − x̂)² + α·L_aux``.

    AuxK: with e = x − x̂ held fixed, the ``aux_k`` largest of the *dead* features reconstruct it, ê = W_dec·z;
    ``L_aux = mean (e − ê)²``. Its gradient reaches encoder and decoder of the dead features (and ``b_dec`` through
    the encoder's input), so that they come alive again. It costs products with the dead rows only. Unless it is given,
    ``aux_k`` is d_in // 2, but at most 512. With ``aux_every`` the mean is over every so many-th token.

    Initialisation: random unit decoder rows, encoder equal to the decoder, biases 0; ``initialize(sample)`` sets
    ``b_dec`` to the geometric median.

    Source: Gao et al. 2024 (arXiv 2406.04093), sections 2.3, 2.4 and A.2.
    """

    Config: ClassVar[type[TopKConfig]] = TopKConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    cfg: TopKConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int = 32,
        aux_k: int | str | None = "auto",
        aux_coefficient: float = 1 / 32,
        *,
        initial_k: int | None = None,
        k_anneal: float = K_ANNEAL,
        aux_every: int = 1,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        make = type(self).Config  # of a kind with the same settings, its own
        super().__init__(make(d_in, d_sae, k, aux_k, aux_coefficient, initial_k, k_anneal, aux_every), device, dtype)
        self.start_tied(seed)

    @property
    def composition(self) -> Composition:
        return Composition(TopK(self.cfg.k_at(self.progress)), revival=aux_of(self.cfg))
