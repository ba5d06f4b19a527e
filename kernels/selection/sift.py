"""Candidates from products in memory, a block of features after the other: what may still be among the k largest.

cuBLAS computes the product of all tokens with a block of features in bf16, small enough to stay in cache. One program
per row reads its part, keeps the features above the row's threshold, and raises the threshold when its slots are
full. Nothing is sampled and nothing is counted by atomic operations: candidates come in the order of features, the
same ones each time.
"""

import triton
import triton.language as tl
from monosem.kernels.selection.bound import error_bound, upper_bound
from monosem.kernels.selection.order import LOWEST, LOWEST32, number, pack, raised, rank32, rank_of, reaching

# A number rounded to bf16 is off by at most half of its last place, 2⁻⁸ of it; and a little for computing that.
TO_BF16 = tl.constexpr(2.0**-8 * 1.001)


@triton.jit
def sift(
    slab, b, x_length, x_error, w_length, w_error, most, keys, count, threshold, FIRST, WIDTH, STRIDE, rounding, k,
    CAP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Append to keys [N, CAP] the features of slab [N, WIDTH], from FIRST on, above the threshold; raise it when full.

    most: the largest of ``w_length``, and of ``w_error``. ``count`` > CAP: too much is within the margin of the k-th;
    the row is not looked at any more.
    """
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(count + row)
    if n <= CAP:
        low = tl.load(threshold + row)
        length, error = tl.load(x_length + row), tl.load(x_error + row)
        widest = error_bound(length, error, tl.load(most), tl.load(most + 1), rounding, False)
        cols = tl.arange(0, BN)
        inside = cols < WIDTH
        features = FIRST + cols
        product = tl.load(slab + row * STRIDE + cols, mask=inside, other=0.0).to(tl.float32)
        v = product + tl.load(b + features, mask=inside, other=0.0).to(tl.float32)
        lost = tl.abs(product) * TO_BF16
        # First by the largest norms: the norms of a feature are read only where its product may pass.
        loose = upper_bound(v, lost, length, error, tl.load(most), tl.load(most + 1), rounding, False)
        maybe = inside & ((loose > low) | (loose != loose))
        if tl.max(maybe.to(tl.int32)) > 0:
            long = tl.load(w_length + features, mask=maybe, other=0.0)
            off = tl.load(w_error + features, mask=maybe, other=0.0)
            upper = upper_bound(v, lost, length, error, long, off, rounding, False)
            hit = maybe & ((upper > low) | (upper != upper))
            new = tl.sum(hit.to(tl.int32))
            mine = keys + row * CAP
            if n + new > CAP:
                slots = tl.arange(0, CAP)
                old = tl.load(mine + slots, mask=slots < n, other=LOWEST)
                low = tl.maximum(low, raised_threshold(tl.where(hit, rank32(upper), LOWEST32), rank_of(old), widest, k))
                hit = hit & ((upper > low) | (upper != upper))
                upper_old = number(rank_of(old))
                stays = (slots < n) & ((upper_old > low) | (upper_old != upper_old))
                tl.debug_barrier()  # every thread has read its keys
                tl.store(mine + tl.cumsum(stays.to(tl.int32)) - 1, old, mask=stays)
                n = tl.sum(stays.to(tl.int32))
                new = tl.sum(hit.to(tl.int32))
                tl.store(threshold + row, low)
            at = n + tl.cumsum(hit.to(tl.int32)) - 1
            tl.store(mine + at, pack(rank32(upper), features), mask=hit & (at < CAP))
            tl.store(count + row, n + new)


@triton.jit
def raised_threshold(new, old, widest, k):
    """A lower bound of the k-th largest value of both sets: the k-th largest upper bound less two error bounds; −∞
    while there are fewer than k.

    Any threshold is right, because every row is certified afterwards.
    """
    t = tl.full([], -(2**31), tl.int64)
    for step in range(16):
        shift = 30 - 2 * step
        t = raised(t, tl.sum(reaching(new, t, shift)) + tl.sum(reaching(old, t, shift)), shift, k)
    reached = number(t.to(tl.int32))
    low = reached - 2 * widest - tl.abs(reached) * (4 * TO_BF16)
    return tl.where(low == low, low, float("-inf"))
