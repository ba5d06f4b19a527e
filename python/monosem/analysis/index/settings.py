"""Settings of an index: how many examples and partners it keeps per feature."""

from __future__ import annotations

from dataclasses import dataclass, fields

from monosem.data.counted import BY_NAME, SkipTokens
from monosem.data.norm_limit import AS_TRAINED, SkipNorm

INTERVALS = 11  # of the activation, evenly spaced from 0 to the maximum (paper, "Feature Interpretability Rubric")


@dataclass(frozen=True)
class IndexSettings:
    """Places kept per feature; about 3.8 KB per feature, and 150 bytes more per source.

    Attributes:
        top: top activations, at most one per row.
        random: examples drawn from all its active tokens, each equally likely.
        each: examples drawn from each bin of the histogram; the samples of the 11 intervals come from them.
        bins: bins of the activation histogram.
        slots: tokens and partners kept.
        neurons: also keep the sums for correlations with the components of the activation: 4·d_in bytes per feature.
        codes: also store every activation: 6 to 8 bytes for each active feature of each token. The browser of features
            reads them; an index in memory has none.
        seed: of the random samples.
        skip_positions: leading positions of every row that are left out.
        skip_tokens: left out wherever they stand: ids, ``"bos"``, ``"pad"``.
        contexts: rows read at a time.
        skip_norm: leave out tokens whose norm exceeds this multiple of the median norm; "as trained": as when the
            dictionary was trained; None: none.
    """

    top: int = 20
    random: int = 64
    each: int = 8
    bins: int = 32
    slots: int = 32
    neurons: bool = True
    codes: bool = True
    seed: int = 0
    skip_positions: int = 1
    contexts: int = 16
    skip_tokens: SkipTokens = BY_NAME
    skip_norm: SkipNorm | str = AS_TRAINED

    def __post_init__(self) -> None:
        may_be_zero = ("seed", "skip_positions", "neurons", "codes")
        for field in fields(self):
            if field.name in ("skip_tokens", "skip_norm"):  # the model says which it knows; checked when measured
                continue
            value, minimum = getattr(self, field.name), 0 if field.name in may_be_zero else 1
            if not isinstance(value, int) or value < minimum:
                raise ValueError(f"{field.name}: got {value!r}; wanted an integer ≥ {minimum}")
        if self.bins < 2 * INTERVALS or self.bins % 2:
            raise ValueError(
                f"bins: got {self.bins}; wanted an even number ≥ {2 * INTERVALS}: they are merged in pairs, and after "
                f"that each of the {INTERVALS} intervals must still have one of its own"
            )
