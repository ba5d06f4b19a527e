"""Features in trees: a child is active only where its parent is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.data.seeded import check_count, check_share


@dataclass(frozen=True)
class Hierarchy:
    """Trees of features, all of one shape, numbered level by level: the roots are features 0…trees − 1.

    Attributes:
        trees: number of trees.
        branching: children of each feature that is not a leaf.
        depth: levels below the roots.
        child_probability: expected number of active children of an active parent. Child j of ``branching`` gets the
            share j⁻ᵉ / Σ j⁻ᵉ of it, e = ``child_exponent``.
        child_exponent: 0: all children of a parent are equally frequent.
        exclusive: at most one child of a parent is active on a token; otherwise children are independent, given
            their parent.
        magnitude: mean value of a child, relative to its parent's mean.
        scaled: a child's value is a multiple of its parent's value on the token, not only of its mean.
        cosine: cosine of a child's direction with its parent's.
    """

    trees: int
    branching: int = 4
    depth: int = 1
    child_probability: float = 0.8
    child_exponent: float = 0.0
    exclusive: bool = True
    magnitude: float = 1.0
    scaled: bool = True
    cosine: float = 0.0

    def __post_init__(self) -> None:
        for name in ("trees", "branching", "depth"):
            check_count(f"hierarchy.{name}", getattr(self, name))
        most = 1 if self.exclusive else self.branching
        if not 0 < self.child_probability <= most:
            raise ValueError(
                f"hierarchy.child_probability: got {self.child_probability!r}; wanted an expected number of active "
                f"children above 0, at most {most}"
            )
        for name in ("child_exponent", "magnitude"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"hierarchy.{name}: got {getattr(self, name)!r}; wanted a number ≥ 0")
        if not self.magnitude:
            raise ValueError("hierarchy.magnitude: got 0; wanted a number above 0: a child of value 0 is not active")
        check_share("hierarchy.cosine", self.cosine, below=True)
        if (largest := float(self.conditional().max())) > 1:
            raise ValueError(
                f"hierarchy.child_probability: got {self.child_probability!r}, so that the first child is active with "
                f"probability {largest:.3g} where its parent is; wanted at most 1. Lower it, or child_exponent."
            )

    @property
    def size(self) -> int:
        """Features in all trees."""
        return self.starts()[-1]

    def starts(self) -> list[int]:
        """The first feature of each level, and behind the last level: depth + 2 numbers."""
        starts = [0]
        for level in range(self.depth + 1):
            starts.append(starts[-1] + self.trees * self.branching**level)
        return starts

    def conditional(self) -> Tensor:
        """P(child j | its parent), float64 [branching]."""
        shares = torch.arange(1, self.branching + 1, dtype=torch.float64, device="cpu") ** -self.child_exponent
        return shares * (self.child_probability / shares.sum())

    def per_root(self) -> float:
        """Expected number of active features of a tree whose root is active."""
        return sum(self.child_probability**level for level in range(self.depth + 1))

    def parents(self) -> Tensor:
        """The parent of each feature in the trees, int64 [size]; −1 for roots."""
        starts = self.starts()
        below = torch.arange(starts[-1] - self.trees, dtype=torch.int64, device="cpu") // self.branching
        # The children of the features 0, 1, … follow the roots in the same order, level after level.
        return torch.cat([torch.full((self.trees,), -1, dtype=torch.int64, device="cpu"), below])

    def depths(self) -> Tensor:
        """Level of each feature in the trees, int64 [size]; 0 for roots."""
        sizes = torch.tensor(self.starts(), dtype=torch.int64, device="cpu").diff()
        return torch.repeat_interleave(torch.arange(self.depth + 1, dtype=torch.int64, device="cpu"), sizes)

    def draw_children(self, parents: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The active children of active features [n] that have children.

        Returns:
            The place in ``parents`` and the feature of each active child.
        """
        n = len(parents)
        if self.exclusive:
            draw = torch.rand(n, generator=rng, dtype=torch.float64, device="cpu")
            child = torch.searchsorted(self.conditional().cumsum(0), draw, right=True)
            at = (child < self.branching).nonzero()[:, 0]
            child = child[at]
        else:
            draw = torch.rand(n, self.branching, generator=rng, dtype=torch.float64, device="cpu")
            at, child = (draw < self.conditional()).nonzero(as_tuple=True)
        return at, self.trees + parents[at] * self.branching + child
