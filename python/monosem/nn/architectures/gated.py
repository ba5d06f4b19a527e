"""Gated: one affine map decides which features are active, another, with the same weights, how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from monosem.nn.activations import Gated
from monosem.nn.composed import ComposedSAE
from monosem.nn.composition import Composition
from monosem.nn.config import SAEConfig, check_initial_l0, check_number
from monosem.nn.parameters import Declared, Vector
from monosem.nn.penalties import GateL1
from monosem.nn.registry import register

MAGNITUDES: dict[str, Declared] = {name: Vector(per_feature=True, initial=0.0) for name in ("r_mag", "b_mag")}


@dataclass(frozen=True)
class GatedConfig(SAEConfig):
    """A Gated autoencoder.

    Attributes:
        l1_coefficient: λ of ``Σ ReLU(π)``: the error is a mean over D, the penalty a sum over features.
        initial_l0: active features per token at the start, as in ``ReLUConfig``.
    """

    kind: ClassVar[str] = "gated"
    named: ClassVar[tuple[str, ...]] = (*SAEConfig.named, "l1_coefficient")
    l1_coefficient: float = 1e-3
    initial_l0: float | None = None

    @property
    def title(self) -> str:
        return "Gated"

    @property
    def words(self) -> list[str]:
        return [f"λ = {self.l1_coefficient:g}"]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("l1_coefficient", self.l1_coefficient, 0)
        check_initial_l0(self.initial_l0, self.d_sae)


@register
class GatedSAE(ComposedSAE):
    r"""``f = 1[π > 0] · ReLU(e^{r_mag}·(W_enc·(x − b_dec)) + b_mag)``, ``π = W_enc·(x − b_dec) + b_enc``.

    ``L = mean_D (x − x̂)² + λ·Σ ReLU(π) + mean_D (x − x̂_frozen(ReLU(π)))²``: the last term trains the gate through a
    decoder that it does not change. Parameters beside those of ``SAE``: ``r_mag``, ``b_mag`` [d_sae], both 0 at first.

    Source: Rajamanoharan et al. 2024 (arXiv 2404.16014).
    """

    Config = GatedConfig
    cfg: GatedConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l1_coefficient: float = GatedConfig.l1_coefficient,
        *,
        initial_l0: float | None = None,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(GatedConfig(d_in, d_sae, l1_coefficient, initial_l0), device, dtype)
        self.start_tied(seed)

    def declared(self) -> dict[str, Declared]:
        return super().declared() | MAGNITUDES

    @property
    def composition(self) -> Composition:
        return Composition(Gated(), penalty=GateL1(self.cfg.l1_coefficient))
