"""The order of candidates: a value and its feature in one integer, larger first, lowest feature among equals."""

import triton
import triton.language as tl

# Below every key of a real candidate, −∞ included.
LOWEST = tl.constexpr(-(2**63))
LOWEST32 = tl.constexpr(-(2**31))
NAN32 = tl.constexpr(2**31 - 1)  # any NaN: above every number
LAST = tl.constexpr(2**32 - 1)


@triton.jit
def rank32(v):
    """int32 in the order of the fp32 numbers v: −0 equals +0, any NaN is the largest."""
    bits = tl.where(v == 0.0, 0.0, v).to(tl.int32, bitcast=True)
    return tl.where(v != v, 2**31 - 1, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
def number(rank):
    """The fp32 number of a rank (NaN for the largest)."""
    return (rank ^ ((rank >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def pack(rank, feature):
    """int64 key: the rank above, the feature below, so that among equals the lowest feature is the largest key."""
    return (rank.to(tl.int64) << 32) | (feature.to(tl.int64) ^ LAST)


@triton.jit
def rank_of(key):
    return (key >> 32).to(tl.int32)


@triton.jit
def feature_of(key):
    return ((key & LAST) ^ LAST).to(tl.int32)


@triton.jit
def reaching(ranks, low, shift):
    """Which of the ranks reach low + 1, 2 and 3 · 2^shift: a 1 in each of three fields of 21 bits, to be added up."""
    one = (ranks >= (low + (tl.full([], 1, tl.int64) << shift)).to(tl.int32)).to(tl.int64)
    two = (ranks >= (low + (tl.full([], 2, tl.int64) << shift)).to(tl.int32)).to(tl.int64)
    three = (ranks >= (low + (tl.full([], 3, tl.int64) << shift)).to(tl.int32)).to(tl.int64)
    return one | (two << 21) | (three << 42)


@triton.jit
def raised(low, counts, shift, k):
    """``low`` with the two bits above ``shift`` that k of the ranks still reach."""
    one, two, three = counts & 0x1FFFFF, (counts >> 21) & 0x1FFFFF, counts >> 42
    bits = (one >= k).to(tl.int64) + (two >= k).to(tl.int64) + (three >= k).to(tl.int64)
    return low + (bits << shift)


@triton.jit
def kth_largest(ranks, k):
    """The largest t such that at least k of the ranks are ≥ t; the lowest of all when there are fewer than k.

    Two bits of t a reduction: a reduction waits, comparing does not.
    """
    low = tl.full([], -(2**31), tl.int64)
    for step in range(16):
        low = raised(low, tl.sum(reaching(ranks, low, 30 - 2 * step)), 30 - 2 * step, k)
    return low.to(tl.int32)
