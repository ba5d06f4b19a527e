"""HierarchicalTopK: one dictionary for every number of active features up to k."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from monosem.nn.activations import TopK
from monosem.nn.architectures.topk import TopKSAE, aux_of
from monosem.nn.composition import Composition
from monosem.nn.config import K_ANNEAL, TopKConfig
from monosem.nn.gradients import Gradients, Multiplied
from monosem.nn.nesting import Ranks
from monosem.nn.registry import register
from monosem.ops import SparseCode, checks
from monosem.ops.structs import EncoderCopy

BYTES = 256 << 20  # of an array of tokens × budgets × D: larger batches are processed in chunks of tokens


@dataclass(frozen=True)
class HierarchicalTopKConfig(TopKConfig):
    """A HierarchicalTopK autoencoder.

    Attributes:
        budgets: numbers of active features j₁ < j₂ < … < k whose reconstructions are in the loss, beside k; "all",
            which becomes 1 … k. Fewer budgets cost less.
        k, aux_k, …: as in ``TopKConfig``.
    """

    kind: ClassVar[str] = "hierarchical_topk"
    named: ClassVar[tuple[str, ...]] = (*TopKConfig.named, "budgets")
    budgets: tuple[int, ...] | str = "all"

    @property
    def title(self) -> str:
        return "HierarchicalTopK"

    @property
    def words(self) -> list[str]:
        return [*super().words, "all budgets" if len(self.budgets) == self.k else f"budgets {self.budgets}"]

    def budgets_at(self, k: int) -> tuple[int, ...]:
        """The budgets while k is this (annealed)."""
        assert isinstance(self.budgets, tuple)  # after __post_init__
        if len(self.budgets) == self.k:
            return tuple(range(1, k + 1))
        return (*(j for j in self.budgets if j < k), k)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.budgets
        budgets = tuple(range(1, self.k + 1)) if given == "all" else given
        if isinstance(budgets, str) or not all(isinstance(j, int) and not isinstance(j, bool) for j in budgets):
            raise ValueError(f"budgets: got {given!r}; wanted integers j₁ < j₂ < … ≤ k={self.k}, or 'all'")
        if not budgets or budgets[-1] != self.k:
            budgets = (*budgets, self.k)
        if not all(a < b for a, b in pairwise((0, *budgets))):
            raise ValueError(f"budgets: got {given}; wanted ascending numbers from 1 to k={self.k}")
        object.__setattr__(self, "budgets", tuple(budgets))


@register
class HierarchicalTopKSAE(TopKSAE):
    r"""``L = mean_{j ∈ J} mean_D (x − b_dec − Σ_{i ≤ j} f_(i)·W_dec[(i)])² + α·L_aux``; f is that of ``TopKSAE``.

    f_(1) ≥ f_(2) ≥ … are the active features of a token; J is 1 … k (``budgets``). So the j largest features
    reconstruct by themselves, for every j: ``encode(x, k=j)`` needs no other training. ``mse`` is that of all k.

    A training step has an array of tokens × budgets × D a few times over; where one were larger than 256 MiB, the batch
    is processed in chunks of tokens (but not where several processes have its tokens). AuxK (on the residual of all k)
    and initialisation as in ``TopKSAE``.

    Source: Balagansky et al. 2025 (arXiv 2505.24473).
    """

    Config = HierarchicalTopKConfig
    cfg: HierarchicalTopKConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int = 32,
        aux_k: int | str | None = "auto",
        aux_coefficient: float = 1 / 32,
        budgets: tuple[int, ...] | list[int] | str = "all",
        *,
        initial_k: int | None = None,
        k_anneal: float = K_ANNEAL,
        aux_every: int = 1,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        chosen = budgets if isinstance(budgets, str) else tuple(budgets)
        cfg = HierarchicalTopKConfig(d_in, d_sae, k, aux_k, aux_coefficient, initial_k, k_anneal, aux_every, chosen)
        super(TopKSAE, self).__init__(cfg, device, dtype)
        self.start_tied(seed)

    @property
    def composition(self) -> Composition:
        k = self.cfg.k_at(self.progress)
        return Composition(TopK(k), revival=aux_of(self.cfg), nesting=Ranks(self.cfg.budgets_at(k)))

    def encode(self, x: Tensor, k: int | None = None) -> SparseCode:
        """The active features of x [..., d_in]; with ``k``, so many of them, the largest."""
        if k is None:
            return super().encode(x)
        checks.topk(k, self.cfg.d_sae)
        return TopK(k).encode(self.inputs(self.centred(x), self.prepared()))

    @torch.no_grad()
    def gradients(
        self,
        x: Tensor,
        sparsity_scale: float = 1.0,
        dead: Tensor | None = None,
        encoder_copy: EncoderCopy | None = None,
    ) -> Gradients:
        nesting = self.composition.nesting
        assert nesting is not None
        of_token = len(nesting) * self.cfg.d_in * x.element_size()
        size = max(1, BYTES // of_token)
        whole = super().gradients
        if len(x) <= size or self.shard.splits_tokens:  # whose gradients are exchanged in factors
            return whole(x, sparsity_scale, dead, encoder_copy)
        return _by_chunks(lambda chunk: whole(chunk, sparsity_scale, dead, encoder_copy), x, size)


def _by_chunks(gradients: Callable[[Tensor], Gradients], x: Tensor, size: int) -> Gradients:
    """The gradients of a batch whose loss is a mean over tokens, from those of chunks; one chunk is held at a time."""
    parts, arrays = [], {}
    for chunk in x.split(size):
        part, share = gradients(chunk), len(chunk) / len(x)
        for name, array in part.parameters.multiplied().items():
            arrays[name] = arrays[name].add_(array, alpha=share) if name in arrays else array.mul_(share)
        parts.append((share, replace(part, parameters=Multiplied({}))))

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(part, name) * share for share, part in parts]).sum(0)

    return Gradients(
        loss=mean("loss"),
        mse=mean("mse"),
        sparsity=mean("sparsity"),
        aux=mean("aux"),
        l0=mean("l0"),
        fired=torch.stack([part.fired for _, part in parts]).any(0),
        parameters=Multiplied(arrays),
    )
