"""The entries of ReLU(x·wᵀ + b) that are not 0, compacted to CSR.

    collect (threshold 0) → score → keep → [offsets: a sum over rows] → place

The candidates are those whose upper bound is above 0; each is computed in fp32 and kept if it is positive, or NaN.
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
def count_kept(exact, end, kept, CAP: tl.constexpr, B: tl.constexpr):
    """How many candidates of a row are positive or NaN: kept [N], int64."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(end + row)
    total = tl.zeros([], tl.int64)
    for s in range(0, n, B):
        i = s + tl.arange(0, B)
        ranks = rank_of(tl.load(exact + row * CAP + i, mask=i < n, other=LOWEST))
        total += tl.sum((ranks > 0).to(tl.int64))
    tl.store(kept + row, total)


@triton.jit
def place(exact, end, offsets, values, indices, CAP: tl.constexpr, B: tl.constexpr):
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
            lower = (rank_of(other) > 0)[None, :] & (feature_of(other)[None, :] < feature_of(mine)[:, None])
            before += tl.sum(lower.to(tl.int32), axis=1)
        keep = (s + i < n) & (rank_of(mine) > 0)
        tl.store(values + start + before, number(rank_of(mine)), mask=keep)
        tl.store(indices + start + before, feature_of(mine), mask=keep)
