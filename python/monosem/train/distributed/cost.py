"""The bytes that a rank sends per step, of a TopK dictionary on a mesh; ``docs/scaling.md`` has tables of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

FP32 = 4
MEMORY_TO_LINK = 8  # bytes that a memory moves while a link sends one: 3.35 TB/s and 450 GB/s, say


@dataclass(frozen=True)
class Sizes:
    """N tokens of width D in the whole batch, K active features of each; K_aux dead ones where AuxK is at work.

    A Matryoshka dictionary of G prefixes has G reconstructions.
    """

    n: float
    d: int
    k: float
    k_aux: float = 0
    prefixes: int = 1


def selection(n: float, k: float, ranks: int) -> float:
    """Values of candidates to the ranks that compare them, and the number of winners of each token back."""
    return (ranks - 1) / ranks * n * (FP32 * k + FP32)


def reconstruction(s: Sizes, ranks: int) -> float:
    """Partial reconstructions to the ranks that add them, and the sums to all."""
    return 2 * (ranks - 1) / ranks * FP32 * s.n * s.d


def over_features(s: Sizes, ranks: int) -> float:
    """A step with the features in so many shards."""
    own = selection(s.n, s.k, ranks) + s.prefixes * reconstruction(s, ranks)
    return own + (selection(s.n, s.k_aux, ranks) + reconstruction(s, ranks) if s.k_aux else 0.0)


def over_tokens(s: Sizes, ranks: int) -> float:
    """A step with the tokens in so many: residual, input, and value, feature and slope of each entry, to all others."""
    of_token = FP32 * (1 + s.prefixes) * s.d + 3 * FP32 * s.k + FP32 * s.prefixes
    if s.k_aux:
        of_token += 2 * FP32 * s.d + 3 * FP32 * s.k_aux + FP32
    return (ranks - 1) / ranks * s.n * of_token


def on_mesh(s: Sizes, rows: int, across: int) -> float:
    """A step on a mesh of rows (data) × across (features): a rank has the entries of its features alone."""
    own = replace(s, n=s.n / rows), replace(s, k=s.k / across, k_aux=s.k_aux / across)
    return over_features(own[0], across) + over_tokens(own[1], rows)


def dense_gradients(features: int, s: Sizes, ranks: int) -> float:
    """What DDP sends for two matrices of F × D: a ring adds their gradients."""
    return 2 * (ranks - 1) / ranks * FP32 * 2 * features * s.d


def sharded_weights(features: int, s: Sizes, ranks: int) -> float:
    """What FSDP sends for them: weights twice, and their gradients once."""
    return 1.5 * dense_gradients(features, s, ranks)


def tokens_pay(features: int, s: Sizes, ranks: int) -> bool:
    """Whether the bytes that a mesh of tokens alone sends less, if it does, take longer than the sweep of the optimizer
    over the weights and moments that it repeats in every rank: each is read and written."""
    saved = over_features(s, ranks) - over_tokens(s, ranks)
    repeated = 2 * (held(features, s, 1) - held(features, s, ranks))
    return MEMORY_TO_LINK * saved > repeated


def held(features: int, s: Sizes, ranks: int) -> float:
    """Weights and Adam's moments of a rank that has 1/ranks of the features, in bytes."""
    return 6 * FP32 * features * s.d / ranks
