"""A row's threshold from a sample of its products, and pre-activations of candidates computed in fp32."""

import triton
import triton.language as tl
from monosem.kernels.common.long_sum import row_dots
from monosem.kernels.selection.bound import error_bound
from monosem.kernels.selection.order import LOWEST32, kth_largest, number, pack, rank32


@triton.jit
def set_threshold(
    values, x_length, x_error, w_length, w_error, out, SAMPLE, rounding, j, j_most,
    BS: tl.constexpr, DITHERED: tl.constexpr,
):  # fmt: skip
    """Threshold of a row: what the j-th of the sample guarantees, but at least what the j_most-th allows.

    Any threshold is right, for it is checked after; this one makes a failure rare. ``w_length`` and ``w_error`` are the
    largest of all features.
    """
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BS)
    v = tl.load(values + row * SAMPLE + i, mask=i < SAMPLE, other=0.0)
    ranks = tl.where(i < SAMPLE, rank32(v), LOWEST32)
    reached = number(kth_largest(ranks, j))
    floor = number(kth_largest(ranks, j_most))
    length, error = tl.load(x_length + row), tl.load(x_error + row)
    widest = error_bound(length, error, tl.load(w_length), tl.load(w_error), rounding, DITHERED)
    threshold = tl.minimum(reached, tl.maximum(reached - widest, floor + widest))
    tl.store(out + row, tl.where(threshold == threshold, threshold, float("-inf")))


@triton.jit
def score_block(x_row, w, b, features, live, D, C: tl.constexpr, BD: tl.constexpr):
    """Ranks of C pre-activations of one row, computed in fp32.

    All scores are made here, with one BD and one number of warps, which are what the order of additions depends on:
    equal rows have equal bits, whether they are redone or not.
    """
    dots = row_dots(x_row, w + features.to(tl.int64)[:, None] * D, live, D, C, BD)
    return rank32(dots + tl.load(b + features, mask=live, other=0.0).to(tl.float32))


@triton.jit
def score_listed(x_row, w, b, listed, exact, begin, end, D, C: tl.constexpr, BD: tl.constexpr):
    """Exact keys of one row's listed features begin:end."""
    for s in range(begin, end, C):
        slots = s + tl.arange(0, C)
        live = slots < end
        features = tl.load(listed + slots, mask=live, other=0)
        tl.store(exact + slots, pack(score_block(x_row, w, b, features, live, D, C, BD), features), mask=live)


@triton.jit
def score(x, w, b, listed, end, exact, D, CAP: tl.constexpr, C: tl.constexpr, BD: tl.constexpr):
    """Exact keys of the first ``end[row]`` listed features."""
    row = tl.program_id(0).to(tl.int64)
    score_listed(x + row * D, w, b, listed + row * CAP, exact + row * CAP, 0, tl.load(end + row), D, C, BD)
