"""AbsTopK: the k largest pre-activations in magnitude, with their sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from monosem.nn.activations import AbsTopK
from monosem.nn.architectures.topk import TopKSAE, aux_of
from monosem.nn.composition import Composition
from monosem.nn.config import TopKConfig
from monosem.nn.registry import register


@dataclass(frozen=True)
class AbsTopKConfig(TopKConfig):
    """An AbsTopK autoencoder; the fields are those of ``TopKConfig``."""

    kind: ClassVar[str] = "abs_topk"

    @property
    def title(self) -> str:
        return "AbsTopK"


@register
class AbsTopKSAE(TopKSAE):
    r"""``f``: the k of ``W_enc·(x − b_dec) + b_enc`` that are largest in magnitude; ``L = mean (x − x̂)² + α·L_aux``.

    A value may be negative: a feature has two directions, a concept and its opposite. AuxK, whose values are positive,
    and initialisation as in ``TopKSAE``.

    Source: Zhu et al. 2025 (arXiv 2510.00404).
    """

    Config = AbsTopKConfig

    @property
    def composition(self) -> Composition:
        return Composition(AbsTopK(self.cfg.k_at(self.progress)), revival=aux_of(self.cfg))
