"""The bytes that a rank sends per step, of a TopK dictionary on a mesh; ``docs/scaling.md`` has tables of them."""

from __future__ import annotations

from dataclasses import dataclass

FP32 = 4


@dataclass(frozen=True)
class Sizes:
    """N tokens of width D in the whole batch, K active features of each."""

    n: int
    d: int
    k: int


def selection(s: Sizes, ranks: int) -> float:
    """Values of candidates to the ranks that compare them, and the number of winners of each token back."""
    return (ranks - 1) / ranks * s.n * (FP32 * s.k + FP32)


def reconstruction(s: Sizes, ranks: int) -> float:
    """Partial reconstructions to the ranks that add them, and the sums to all."""
    return 2 * (ranks - 1) / ranks * FP32 * s.n * s.d


def over_features(s: Sizes, ranks: int) -> float:
    """A step with the features in so many shards."""
    return selection(s, ranks) + reconstruction(s, ranks)


def over_tokens(s: Sizes, ranks: int) -> float:
    """A step with the tokens in so many: residual, input, and value, feature and slope of each entry, to all others."""
    return (ranks - 1) / ranks * s.n * (2 * FP32 * s.d + 3 * FP32 * s.k + FP32)


def dense_gradients(features: int, s: Sizes, ranks: int) -> float:
    """What DDP sends for two matrices of F × D: a ring adds their gradients."""
    return 2 * (ranks - 1) / ranks * FP32 * 2 * features * s.d


def sharded_weights(features: int, s: Sizes, ranks: int) -> float:
    """What FSDP sends for them: weights twice, and their gradients once."""
    return 1.5 * dense_gradients(features, s, ranks)


def held(features: int, s: Sizes, ranks: int) -> float:
    """Weights and Adam's moments of a rank that has 1/ranks of the features, in bytes."""
    return 6 * FP32 * features * s.d / ranks
