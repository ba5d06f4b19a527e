"""Decode, residual, loss and the gradient of each value, every row read from memory once.

The columns go by in slices. A slice of a token's rows stays in registers until the residual of the slice is known (it
needs all of them), and gives its part of every slope before the next slice is read.
"""

import triton
import triton.language as tl
from monosem.kernels.common.long_sum import add, joined


@triton.jit
def slice_of(w, f, live, cols, D):
    """Rows f [J] of w at cols [BD], as fp32."""
    at = w + f[:, None] * D + cols[None, :]
    return tl.load(at, mask=live[:, None] & (cols < D)[None, :], other=0.0).to(tl.float32)


@triton.jit
def some_rows(indices, w, s, last, cols, D, J: tl.constexpr):
    """The entries s:s + J, whether they are below ``last``, and their rows at cols: ([J], [J], [J, BD])."""
    j = s + tl.arange(0, J)
    f = tl.load(indices + j, mask=j < last, other=0).to(tl.int64)
    return j, j < last, slice_of(w, f, j < last, cols, D)


@triton.jit
def decode_loss(
    values, indices, offsets, w, b, x, loss, residual, slopes, lost, D, per_d,
    J: tl.constexpr, BD: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """r = b + Σ_j values_j·w[indices_j] − x; loss = Σ r²·per_d; slopes_j = 2·per_d·r·w[indices_j]; per_d = 1/D.

    One program: one token. Its first J entries are held; further ones are read twice a slice, the second time from the
    cache (a slice of theirs is small), and their slopes grow in memory, with what rounding took off them in ``lost``.
    """
    n = tl.program_id(0).to(tl.int64)
    first, last = tl.load(offsets + n), tl.load(offsets + n + 1)
    j = first + tl.arange(0, J)
    live = j < last
    v = tl.load(values + j, mask=live, other=0.0).to(tl.float32)
    f = tl.load(indices + j, mask=live, other=0).to(tl.int64)
    squares, squares_lost = tl.zeros([BD], tl.float32), tl.zeros([BD], tl.float32)
    dots, dots_lost = tl.zeros([J], tl.float32), tl.zeros([J], tl.float32)
    for c in range(0, D, BD):
        cols = c + tl.arange(0, BD)
        inside = cols < D
        r = tl.load(b + cols, mask=inside, other=0.0).to(tl.float32)
        for s in range(first + J, last, FEW):
            more, there, few = some_rows(indices, w, s, last, cols, D, FEW)
            r += tl.sum(tl.load(values + more, mask=there, other=0.0).to(tl.float32)[:, None] * few, axis=0)
        rows = slice_of(w, f, live, cols, D)
        r += tl.sum(v[:, None] * rows, axis=0)
        r -= tl.load(x + n * D + cols, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + n * D + cols, r, mask=inside)
        squares, squares_lost = add(squares, squares_lost, r * r)
        dots, dots_lost = add(dots, dots_lost, tl.sum(rows * r[None, :], axis=1))
        for s in range(first + J, last, FEW):
            more, there, few = some_rows(indices, w, s, last, cols, D, FEW)
            old = there & (c > 0)
            total, less = tl.load(slopes + more, mask=old, other=0.0), tl.load(lost + more, mask=old, other=0.0)
            total, less = add(total, less, tl.sum(few * r[None, :], axis=1))
            if c + BD >= D:
                total = 2.0 * per_d * joined(total, less)
            tl.debug_barrier()  # all threads have read before one of them writes, and the other way round below
            tl.store(slopes + more, total, mask=there)
            tl.store(lost + more, less, mask=there)
            tl.debug_barrier()
    tl.store(loss + n, tl.sum(joined(squares, squares_lost)) * per_d)
    tl.store(slopes + j, 2.0 * per_d * joined(dots, dots_lost), mask=live)
