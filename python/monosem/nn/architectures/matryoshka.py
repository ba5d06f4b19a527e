"""Matryoshka: prefixes of the features reconstruct by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch

from monosem.nn.architectures.chosen import ChosenConfig, ChosenSAE
from monosem.nn.composition import Composition
from monosem.nn.config import AUTO
from monosem.nn.nesting import Prefixes, sampled_prefixes
from monosem.nn.registry import register

SHARES = (16, 8, 4, 2, 1)  # of d_sae, the default prefixes


@dataclass(frozen=True)
class MatryoshkaConfig(ChosenConfig):
    """A Matryoshka autoencoder.

    Attributes:
        prefixes: sizes m₁ < m₂ < …; the last is d_sae. "auto", which becomes d_sae / 16, / 8, / 4, / 2 and d_sae; with
            ``n_prefixes``, d_sae alone.
        n_prefixes: number of prefixes whose sizes are drawn for each training step, d_sae among them; None: they are
            ``prefixes`` in all steps.
        min_prefix_length: smallest size that is drawn. ``nn.nesting.sampled_prefixes`` has the distribution.
        activation, k, …: as in ``ChosenConfig``; "batch_topk" unless told otherwise.
    """

    kind: ClassVar[str] = "matryoshka"
    named: ClassVar[tuple[str, ...]] = (*ChosenConfig.named, "prefixes", "n_prefixes")
    prefixes: tuple[int, ...] | str = AUTO
    activation: str = "batch_topk"
    n_prefixes: int | None = None
    min_prefix_length: int = 1

    def prefixes_at(self, seed: int, step: int) -> Prefixes:
        """The prefixes of a step of a run with this seed."""
        if self.n_prefixes is None:
            assert isinstance(self.prefixes, tuple)  # after __post_init__
            return Prefixes(self.prefixes)
        return sampled_prefixes(self.n_prefixes, self.min_prefix_length, self.d_sae, seed=seed, step=step)

    @property
    def without_effect(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (*super().without_effect, *(("min_prefix_length",) if self.n_prefixes is None else ()))

    @property
    def title(self) -> str:
        return f"Matryoshka ({self.sparsity_words})"

    @property
    def words(self) -> list[str]:
        return [f"prefixes {self.prefixes}" if self.n_prefixes is None else f"{self.n_prefixes} sampled prefixes"]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_draws()
        sizes = self.prefixes
        if sizes == AUTO and self.n_prefixes is not None:
            sizes = (self.d_sae,)
        if sizes == AUTO:
            sizes = tuple(dict.fromkeys(max(1, self.d_sae // share) for share in SHARES))
        if isinstance(sizes, str) or not all(isinstance(m, int) and not isinstance(m, bool) for m in sizes):
            raise ValueError(f"prefixes: got {self.prefixes!r}; wanted integers m₁ < m₂ < … < d_sae, or 'auto'")
        sizes = tuple(sizes)
        ascending = all(a < b for a, b in pairwise((0, *sizes)))
        if not sizes or sizes[-1] != self.d_sae or not ascending:
            raise ValueError(f"prefixes: got {sizes}; wanted ascending sizes from 1, the last d_sae={self.d_sae}")
        if self.n_prefixes is not None and len(sizes) > 1:
            raise ValueError(
                f"prefixes: got {sizes} beside n_prefixes={self.n_prefixes}, which are drawn; wanted one of them"
            )
        object.__setattr__(self, "prefixes", sizes)

    def _check_draws(self) -> None:
        least, n = self.min_prefix_length, self.n_prefixes
        if not isinstance(least, int) or isinstance(least, bool) or not 1 <= least <= self.d_sae:
            raise ValueError(f"min_prefix_length: got {least!r}; wanted an integer from 1 to d_sae={self.d_sae}")
        most = self.d_sae - least + 1
        if n is not None and (not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= most):
            raise ValueError(
                f"n_prefixes: got {n!r}; wanted an integer from 1 to {most}, the sizes from min_prefix_length={least} "
                f"to d_sae={self.d_sae}, or None for those of ``prefixes``"
            )


@register
class MatryoshkaSAE(ChosenSAE):
    r"""``L = mean_g mean_D (x − b_dec − Σ_{i < m_g} f_i·W_dec[i])²`` over prefixes m₁ < … < m_G = d_sae, + α·L_aux.

    The features of a small prefix must explain as much as they can without the others, so that a common feature is not
    absorbed by rarer ones that imply it. The choice of features is that of the activation, over all of them; the code
    of a prefix is the part of it below m_g. ``mse`` in metrics is that of all features.

    Bussmann et al. sum over the prefixes; the mean is the same but for a factor on the loss beside AuxK.

    With ``n_prefixes`` the sizes are drawn anew for each step, by the seed of the run and the number of the step
    (``seed_and_step``, which ``Trainer`` sets; a loop of your own sets it before ``loss``), so that no size is special.
    On a GPU such a step is called, not replayed from a CUDA graph. Nabeshima also sorts the features by the mean square
    of their values after each step; here they stay where they are. ``encode`` and evaluations do not depend on draws.

    Sources: Bussmann et al. 2025 (arXiv 2503.17547); Nabeshima 2024, *Matryoshka Sparse Autoencoders*, for sampled
    prefixes.
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
        prefixes: tuple[int, ...] | list[int] | str = AUTO,
        activation: str = MatryoshkaConfig.activation,
        l1_coefficient: float = MatryoshkaConfig.l1_coefficient,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        n_prefixes: int | None = None,
        **settings: Any,  # ``min_prefix_length``; of "jumprelu", as in ``ChosenConfig``
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
            n_prefixes=n_prefixes,
            **settings,
        )
        super().__init__(cfg, device, dtype)
        self.start_tied(seed)

    @property
    def composition(self) -> Composition:
        return self.composed(self.cfg.prefixes_at(*self.seed_and_step))
