"""Penalties: what the loss adds for entries, so that few features are active."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monosem.nn.activations import Vectors
from monosem.nn.activations.jumprelu import is_active, positive
from monosem.ops import SparseCode
from monosem.ops.precision import as_given


def magnitude(f: Tensor) -> Tensor:
    """|f|, with slope 1 at 0: an entry of value 0 is one that may become active."""
    return torch.where(f < 0, -f, f)


@dataclass(frozen=True)
class Penalty(ABC):
    """``coefficient · g(mean over tokens of Σ p)``, p of each entry; g is the identity unless ``of_mean`` says more.

    Attributes:
        coefficient: λ.
        by_norm: p depends on the norm of the feature's decoder row.
        vectors: names of the parameters, one element per feature, that p reads.
    """

    by_norm: ClassVar[bool] = False
    vectors: ClassVar[tuple[str, ...]] = ()
    coefficient: float

    @abstractmethod
    def of_entries(self, f: Tensor, h: Tensor, vectors: Vectors, norms: Tensor | None) -> Tensor:
        """p of entries, from their value f, pre-activation h, and elements of the vectors and norms; differentiable."""

    def of_mean(self, mean: Tensor) -> Tensor:
        """g of the mean over tokens of Σ p, 0-dim."""
        return mean

    def slope(self, mean: Tensor) -> Tensor | float:
        """g'."""
        return 1.0

    def weight(self, sparsity_scale: float) -> float:
        """λ, in a warm-up the share of it."""
        return sparsity_scale * self.coefficient

    def of_tokens(self, p: Tensor, offsets: Tensor) -> Tensor:
        """Σ p of each token, float32 [N], from p [nnz]."""
        return torch.segment_reduce(p.float(), "sum", offsets=offsets, initial=0.0)


@dataclass(frozen=True)
class L1(Penalty):
    """``λ · Σ|f|``; rows of the decoder are unit, so that a value is a length in the reconstruction."""

    def of_entries(self, f: Tensor, h: Tensor, vectors: Vectors, norms: Tensor | None) -> Tensor:
        return magnitude(f)

    def of_code(self, code: SparseCode) -> Tensor:
        """Σ f of each token, float32 [N]."""
        values, _, offsets = code.csr()
        return self.of_tokens(values, offsets)


@dataclass(frozen=True)
class NormL1(Penalty):
    """``λ · Σ|f|·‖W_dec‖``: norms are free, and a value counts by its length in the reconstruction.

    Of a crosscoder, ``‖W_dec‖`` is the sum of the norms of a feature's blocks. Source: Anthropic, *Circuits Updates*,
    April 2024; for crosscoders, October 2024.
    """

    by_norm: ClassVar[bool] = True

    def of_entries(self, f: Tensor, h: Tensor, vectors: Vectors, norms: Tensor | None) -> Tensor:
        assert norms is not None  # by_norm
        return magnitude(f) * norms


@dataclass(frozen=True)
class GateL1(Penalty):
    """``λ · Σ ReLU(π)`` of a gate's pre-activations π (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

    def of_entries(self, f: Tensor, h: Tensor, vectors: Vectors, norms: Tensor | None) -> Tensor:
        return h.relu()


@dataclass(frozen=True)
class L0(Penalty):
    r"""``λ · L0``, or with a target ``λ · (L0/target − 1)²``; L0 is the mean number of features with h > θ.

    The derivative in θ is straight-through, ``−1/ε · K((h − θ)/ε)`` (Rajamanoharan et al. 2024, arXiv 2407.14435,
    section 3 and appendix F).

    Attributes:
        bandwidth: ε.
        target: L0 that the penalty leads to; None: as few as possible.
    """

    vectors: ClassVar[tuple[str, ...]] = ("threshold",)
    bandwidth: float
    target: float | None = None

    def of_entries(self, f: Tensor, h: Tensor, vectors: Vectors, norms: Tensor | None) -> Tensor:
        return is_active(h, vectors["threshold"], self.bandwidth)

    def of_mean(self, mean: Tensor) -> Tensor:
        return mean if self.target is None else (mean / self.target - 1).square()

    def slope(self, mean: Tensor) -> Tensor | float:
        return 1.0 if self.target is None else 2 * (mean / self.target - 1) / self.target


@dataclass(frozen=True)
class Tanh(Penalty):
    """``λ · Σ tanh(c·|f|·‖W_dec‖)``: nearly a count of active features (Anthropic, *Circuits Updates*, January 2025).

    Attributes:
        scale: c.
    """

    by_norm: ClassVar[bool] = True
    scale: float = 4.0

    def of_entries(self, f: Tensor, h: Tensor, vectors: Vectors, norms: Tensor | None) -> Tensor:
        assert norms is not None  # by_norm
        return torch.tanh(self.scale * magnitude(f) * norms)


SMALL = 1e-4  # below it the slope of f^p no longer grows


def lp(f: Tensor, p: float) -> Tensor:
    """``(f + s)^p − s^p`` with s = ``SMALL``, so that the slope is finite."""
    return (f + SMALL).pow(p) - SMALL**p


@dataclass(frozen=True)
class Lp(Penalty):
    """``λ · Σ lp(f)``, nearly ``λ · Σ f^p`` (Karvonen et al. 2024, 2408.00113).

    Attributes:
        p: 0 < p ≤ 1.
    """

    p: float

    def of_entries(self, f: Tensor, h: Tensor, vectors: Vectors, norms: Tensor | None) -> Tensor:
        return lp(magnitude(f), self.p)


@dataclass(frozen=True)
class PreActivation:
    r"""``λ_P · Σ_{inactive} (θ − h)·‖W_dec‖``, mean over tokens: it draws silent features towards their threshold.

    The sum is over every feature that is not active, which is nearly all. It is linear in h there, so that
    ``Σ_inactive = Σ_all − Σ_active`` and ``Σ_n h = W_enc·Σ_n (x − b_dec) + N·b_enc``: no array [N, F].

    Source: Anthropic, *Circuits Updates*, January 2025.

    Attributes:
        coefficient: λ_P.
    """

    vectors: ClassVar[tuple[str, ...]] = ("threshold",)
    coefficient: float

    def of_entries(self, h: Tensor, vectors: Vectors, norms: Tensor | None, dense: bool) -> Tensor:
        """The part of entries: where they are all pairs, the sum itself; else what ``Σ_all`` has too much."""
        assert norms is not None
        below = positive(vectors["threshold"]) - h
        return below.relu() * norms if dense else (-below).relu() * norms

    @as_given
    def over_all(
        self, total: Tensor, n: int | Tensor, w_enc: Tensor, b_enc: Tensor, threshold: Tensor, norms: Tensor
    ) -> Tensor:
        """``Σ_all (θ − h)·‖W_dec‖ / N`` [F], from ``total`` = Σ_n (x − b_dec) [D]; differentiable."""
        return (positive(threshold) - b_enc - (w_enc @ total) / n) * norms
