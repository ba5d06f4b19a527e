"""The answers of an index: examples, tokens, partners, a histogram."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One token of the text on which a feature fires: ``rows.tokens[row, position]``."""

    row: int
    position: int
    value: float


@dataclass(frozen=True)
class TokenCount:
    """A token on which a feature fires, how often, and how strongly on average.

    ``count`` occurrences were counted for certain; at most ``missed`` more came before the token was watched (0 unless
    the feature fires on more different tokens than the index has places for).
    """

    token: int
    count: int
    missed: int
    mean: float


@dataclass(frozen=True)
class Partner:
    """A feature that fires on the same tokens.

    ``tokens`` is on how many, ``share`` that number over the tokens of the feature asked about, and ``phi`` the
    correlation of the two on/off variables: (n·n_fg − n_f·n_g) / √(n_f (n − n_f) n_g (n − n_g)); ``cosine`` is theirs,
    n_fg / √(n_f·n_g).
    """

    feature: int
    tokens: int
    share: float
    phi: float
    cosine: float


@dataclass(frozen=True)
class ActivationHistogram:
    """Counts of a feature's activations: ``counts`` [len(columns), bins] over equal bins from 0 to ``upper``.

    ``columns`` are numbers of sources (the most frequent first) or, if marks were requested, names of marks.
    """

    upper: float
    columns: list
    counts: Tensor
