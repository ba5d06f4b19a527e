"""Matryoshka: prefixes of the features reconstruct by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch

from monosem.nn.architectures.chosen import ChosenConfig, ChosenSAE
from monosem.nn.composition import Composition
from monosem.nn.nesting import Prefixes
from monosem.nn.registry import register

SHARES = (16, 8, 4, 2, 1)  # of d_sae, the default prefixes


@dataclass(frozen=True)
class MatryoshkaConfig(ChosenConfig):
    """A Matryoshka autoencoder.

    Attributes:
        prefixes: sizes m₁ < m₂ < …; the last is d_sae. "auto", which becomes d_sae / 16, / 8, / 4, / 2 and d_sae.
        activation, k, …: as in ``ChosenConfig``; "batch_topk" unless told otherwise.
    """

    kind: ClassVar[str] = "matryoshka"
    named: ClassVar[tuple[str, ...]] = (*ChosenConfig.named, "prefixes")
    prefixes: tuple[int, ...] | str = "auto"
    activation: str = "batch_topk"

    @property
    def title(self) -> str:
        return f"Matryoshka ({self.sparsity_words})"

    @property
    def words(self) -> list[str]:
        return [f"prefixes {self.prefixes}"]

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.prefixes
        if sizes == "auto":
            sizes = tuple(dict.fromkeys(max(1, self.d_sae // share) for share in SHARES))
        if isinstance(sizes, str) or not all(isinstance(m, int) and not isinstance(m, bool) for m in sizes):
            raise ValueError(f"prefixes: got {self.prefixes!r}; wanted integers m₁ < m₂ < … < d_sae, or 'auto'")
        sizes = tuple(sizes)
        ascending = all(a < b for a, b in pairwise((0, *sizes)))
        if not sizes or sizes[-1] != self.d_sae or not ascending:
            raise ValueError(f"prefixes: got {sizes}; wanted ascending sizes from 1, the last d_sae={self.d_sae}")
        object.__setattr__(self, "prefixes", sizes)


@register
class MatryoshkaSAE(ChosenSAE):
    r"""``L = mean_g mean_D (x − b_dec − Σ_{i < m_g} f_i·W_dec[i])²`` over prefixes m₁ < … < m_G = d_sae, + α·L_aux.

    The features of a small prefix must explain as much as they can without the others, so that a common feature is not
    absorbed by rarer ones that imply it. The choice of features is that of the activation, over all of them; the code
    of a prefix is the part of it below m_g. ``mse`` in metrics is that of all features.

    Bussmann et al. sum over the prefixes; the mean is the same but for a factor on the loss beside AuxK.

    Source: Bussmann et al. 2025 (arXiv 2503.17547).
    """

    Config = MatryoshkaConfig
    cfg: MatryoshkaConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int = 32,
        aux_k: int | str | None = "auto",
        aux_coefficient: float = 1 / 32,
        prefixes: tuple[int, ...] | list[int] | str = "auto",
        activation: str = MatryoshkaConfig.activation,
        l1_coefficient: float = MatryoshkaConfig.l1_coefficient,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        **settings: Any,  # of "jumprelu", as in ``ChosenConfig``
    ) -> None:
        sizes = prefixes if isinstance(prefixes, str) else tuple(prefixes)
        cfg = MatryoshkaConfig(
            d_in,
            d_sae,
            k=k,
            aux_k=aux_k,
            aux_coefficient=aux_coefficient,
            prefixes=sizes,
            activation=activation,
            l1_coefficient=l1_coefficient,
            **settings,
        )
        super().__init__(cfg, device, dtype)
        self.start_tied(seed)

    @property
    def composition(self) -> Composition:
        assert isinstance(self.cfg.prefixes, tuple)  # after __post_init__
        return self.composed(Prefixes(self.cfg.prefixes))
