"""GroupMax: the largest of each of k groups of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from monosem.nn.activations import GroupMax
from monosem.nn.architectures.topk import TopKSAE, aux_of
from monosem.nn.composition import Composition
from monosem.nn.config import TopKConfig
from monosem.nn.registry import register


@dataclass(frozen=True)
class GroupMaxConfig(TopKConfig):
    """A GroupMax autoencoder; the fields are those of ``TopKConfig``, ``k`` being the number of groups, which is fixed.

    Raises:
        ValueError: k does not divide d_sae, or ``initial_k`` is given.
    """

    kind: ClassVar[str] = "group_max"

    @property
    def title(self) -> str:
        return "GroupMax"

    @property
    def words(self) -> list[str]:
        return [f"{self.k} groups"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_sae % self.k:
            raise ValueError(f"k: got {self.k}; wanted a divisor of d_sae={self.d_sae}: groups of equal size")
        if self.initial_k is not None:
            raise ValueError(f"initial_k: got {self.initial_k}; wanted None: the number of groups is fixed")


@register
class GroupMaxSAE(TopKSAE):
    r"""``f``: ReLU of the largest of each of k groups of ``W_enc·(x − b_dec) + b_enc``; ``L`` as in ``TopKSAE``.

    The features stand in k groups of neighbours, and each group gives one: a choice without comparisons between groups.
    AuxK and initialisation as in ``TopKSAE``.

    Source: EleutherAI's sparsify, ``activation="groupmax"``.
    """

    Config = GroupMaxConfig

    @property
    def composition(self) -> Composition:
        return Composition(GroupMax(self.cfg.k), revival=aux_of(self.cfg))
