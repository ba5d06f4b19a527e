"""Crosscoder: one dictionary for the activations of several layers, or of several models, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from monosem.nn.architectures.chosen import ChosenConfig, ChosenSAE
from monosem.nn.base import LossOutput
from monosem.nn.composition import Composition
from monosem.nn.config import JsonDict, ReLUConfig, TrainedOn
from monosem.nn.nesting import Nesting
from monosem.nn.penalties import NormL1
from monosem.nn.registry import register
from monosem.ops import SparseCode

EXCLUSIVE = 0.9  # relative norm from which on a feature counts as one source's own


@dataclass(frozen=True)
class CrosscoderConfig(ChosenConfig):
    """A crosscoder.

    Attributes:
        d_in: width of all sources together: n_sources times that of one.
        n_sources: layers or models.
        activation, k, …: as in ``ChosenConfig``. With "relu" (the default) norms of decoder rows are free, and
            ``l1_coefficient`` is λ of ``Σ f·Σ_l ‖W_dec^l‖``; with the others whole rows are unit.
    """

    kind: ClassVar[str] = "crosscoder"
    named: ClassVar[tuple[str, ...]] = (*ChosenConfig.named, "n_sources")
    trained_on: ClassVar[TrainedOn] = TrainedOn.SEVERAL
    activations: ClassVar[tuple[str, ...]] = ("relu", "topk", "batch_topk", "jumprelu")
    activation: str = "relu"
    n_sources: int = 2

    @classmethod
    def shape_of(cls, widths: Sequence[int]) -> JsonDict:
        if len(widths) < 2 or len(set(widths)) > 1:
            raise cls._other(widths)
        return {"d_in": sum(widths), "n_sources": len(widths)}

    @property
    def title(self) -> str:
        return f"Crosscoder of {self.n_sources} sources ({self.sparsity_words})"

    def __post_init__(self) -> None:
        super().__post_init__()
        n = self.n_sources
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n_sources: got {n!r}; wanted a positive integer")
        if self.d_in % n:
            raise ValueError(
                f"d_in: got {self.d_in} with n_sources={n}; wanted a multiple: the width of all sources together"
            )


@register
class Crosscoder(ChosenSAE):
    r"""``f = ReLU(Σ_l W_enc^l·x^l + b_enc)``, ``x̂^l = W_dec^l·f + b_dec^l``.

    ``L = mean_{l, D} (x^l − x̂^l)² + λ·Σ_i f_i·Σ_l ‖W_dec[i]^l‖``, mean over tokens, for the activations x^l of L
    sources (layers of a model, or one layer of several models) on the same tokens. Norms are free and nothing is taken
    off the encoder's input. Anthropic sum the error over L and D: their λ is λ·L·D here.

    With another ``activation`` whole decoder rows, over all sources, are kept unit and the loss is that of
    ``ChosenConfig``: for "topk" and "batch_topk" no penalty, AuxK for dead features. (Minder et al. keep norms free and
    choose by ``f·Σ_l ‖W_dec^l‖``; with unit rows the value alone is the length.)

    x is [..., L, d] or [..., L·d]; a reconstruction has the shape of x. A training batch is [N, L, d], [N, L·d] or a
    list of L tensors [N, d]. Blocks of d columns of ``W_enc_rows``, ``W_dec`` and ``b_dec`` belong to one source each.

    Initialisation: random decoder rows, of norm 0.1 where norms are free, encoder equal to the decoder.

    Sources: Anthropic, *Sparse Crosscoders for Cross-Layer Features and Model Diffing*, October 2024; Minder et al.
    2025 (arXiv 2504.02922) for BatchTopK.
    """

    Config = CrosscoderConfig
    cfg: CrosscoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        n_sources: int = CrosscoderConfig.n_sources,
        l1_coefficient: float = ReLUConfig.l1_coefficient,
        activation: str = CrosscoderConfig.activation,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        **settings: Any,  # the other fields of the configuration
    ) -> None:
        cfg = CrosscoderConfig(
            d_in, d_sae, n_sources=n_sources, l1_coefficient=l1_coefficient, activation=activation, **settings
        )
        super().__init__(cfg, device, dtype)
        self.start_tied(seed)

    @property
    def has_unit_rows(self) -> bool:
        return self.cfg.activation != "relu"

    @property
    def is_centred(self) -> bool:
        return False

    @property
    def batch_widths(self) -> tuple[int, ...]:
        return (self.cfg.d_in // self.cfg.n_sources,) * self.cfg.n_sources

    def composed(self, nesting: Nesting | None) -> Composition:
        parts = super().composed(nesting)
        if self.has_unit_rows:
            return parts
        return Composition(parts.activation, penalty=NormL1(self.cfg.l1_coefficient), nesting=nesting)

    def norms(self) -> Tensor:
        return self.of_sources(self.W_dec).norm(dim=-1)

    def of_sources(self, x: Tensor) -> Tensor:
        """[..., L·d] as [..., L, d], a view."""
        return x.unflatten(-1, (self.cfg.n_sources, -1))

    @torch.no_grad()
    def relative_norms(self) -> Tensor:
        """``‖W_dec^l‖ / Σ_m ‖W_dec^m‖`` of each feature, [d_sae, L]; 1/L in each where the whole row is 0."""
        norms = self.norms()
        total = norms.sum(1, keepdim=True)
        return torch.where(total > 0, norms / total, 1 / self.cfg.n_sources)

    def owners(self, exclusive: float = EXCLUSIVE) -> Tensor:
        """The source that each feature is exclusive to, int64 [d_sae]: its relative norm there is at least
        ``exclusive``; -1 for the others, which several sources share."""
        if not 0.5 < exclusive <= 1:
            raise ValueError(f"exclusive: got {exclusive!r}; wanted a relative norm above 0.5, at most 1")
        largest, source = self.relative_norms().max(1)
        return torch.where(largest >= exclusive, source, -1)

    def encode(self, x: Tensor) -> SparseCode:
        return super().encode(self._flat(x))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(x.shape)

    def loss(self, x: Tensor, sparsity_scale: float = 1.0, dead: Tensor | None = None) -> LossOutput:
        out = super().loss(self._flat(x), sparsity_scale, dead)
        return replace(out, reconstruction=out.reconstruction.view(x.shape))

    def _flat(self, x: Tensor) -> Tensor:
        """x [..., L, d] as [..., L·d]; anything else as it is."""
        by_source = isinstance(x, Tensor) and x.shape[-2:] == (self.cfg.n_sources, *self.batch_widths[:1])
        return x.flatten(-2) if by_source else x
