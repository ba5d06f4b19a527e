"""The entries of x·wᵀ + b above 0, or above a threshold of their feature, compacted to CSR.

    collect → score → keep → [offsets: a sum over rows] → place

The candidates are those whose upper bound is above 0; with thresholds θ, that of x·wᵀ + (b − θ), with room for the
rounding of b − θ. Each is computed in fp32, with b, and kept if it is above 0, or above θ; or NaN.
"""

import triton
import triton.language as tl
from monosem.kernels.selection.order import LOWEST, feature_of, number, rank_of


@triton.jit
def unpack_features(keys, count, listed, CAP: tl.constexpr, B: tl.constexpr):
    """Features of the candidates of a row, as ``topk_encode.score`` reads them."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(count + row), CAP)
    for s in range(0, n, B):
        i = s + tl.arange(0, B)
        tl.store(listed + row * CAP + i, feature_of(tl.load(keys + row * CAP + i, mask=i < n, other=0)), mask=i < n)


@triton.jit
def count_kept(exact, end, threshold, kept, CAP: tl.constexpr, B: tl.constexpr):
    """How many candidates of a row are kept: kept [N], int64.

    threshold: [F], or None. With it, the keys of the others become LOWEST.
    """
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(end + row)
    total = tl.zeros([], tl.int64)
    for s in range(0, n, B):
        i = s + tl.arange(0, B)
        keys = tl.load(exact + row * CAP + i, mask=i < n, other=LOWEST)
        if threshold is not None:
            h = number(rank_of(keys))
            least = tl.load(threshold + feature_of(keys), mask=i < n, other=0.0).to(tl.float32)
            keys = tl.where(h <= least, LOWEST, keys)
            tl.store(exact + row * CAP + i, keys, mask=i < n)
        total += tl.sum(is_kept(keys, threshold is not None).to(tl.int64))
    tl.store(kept + row, total)


@triton.jit
def is_kept(keys, MARKED: tl.constexpr):
    """Whether a candidate is in the code: if it is positive or NaN; MARKED, if ``count_kept`` has left its key."""
    if MARKED:
        return keys != LOWEST
    else:
        return rank_of(keys) > 0


@triton.jit
def place(exact, end, offsets, values, indices, MARKED: tl.constexpr, CAP: tl.constexpr, B: tl.constexpr):
    """Write the kept entries of a row, features ascending: place = how many kept entries have a lower feature."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(end + row)
    start = tl.load(offsets + row)
    i = tl.arange(0, B)
    for s in range(0, n, B):
        mine = tl.load(exact + row * CAP + s + i, mask=s + i < n, other=LOWEST)
        before = tl.zeros([B], tl.int32)
        for o in range(0, n, B):
            other = tl.load(exact + row * CAP + o + i, mask=o + i < n, other=LOWEST)
            lower = is_kept(other, MARKED)[None, :] & (feature_of(other)[None, :] < feature_of(mine)[:, None])
            before += tl.sum(lower.to(tl.int32), axis=1)
        keep = (s + i < n) & is_kept(mine, MARKED)
        tl.store(values + start + before, number(rank_of(mine)), mask=keep)
        tl.store(indices + start + before, feature_of(mine), mask=keep)
