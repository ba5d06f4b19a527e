"""Sums over long rows: chains of a few blocks, which are then joined without loss. Their error must not grow with D."""

import triton
import triton.language as tl

CHAIN = tl.constexpr(4)  # blocks of a row that a lane adds up before what it has is joined to the rest


@triton.jit
def add(total, lost, part):
    """(total + part, lost + what rounding took off it)."""
    new = total + part
    back = new - total
    return new, lost + ((total - (new - back)) + (part - back))


@triton.jit
def joined(total, lost):
    """total + lost; an infinite total has lost no number."""
    return tl.where(lost == lost, total + lost, total)


@triton.jit
def row_dots(x_row, at, live, D, C: tl.constexpr, BD: tl.constexpr):
    """x_row · each of the C rows that begin at ``at`` [C, 1], of those that are ``live`` [C]."""
    total, lost = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
    acc = tl.zeros([C, BD], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        xs = tl.load(x_row + cols, mask=cols < D, other=0.0).to(tl.float32)
        ws = tl.load(at + cols[None, :], mask=live[:, None] & (cols < D)[None, :], other=0.0).to(tl.float32)
        acc += ws * xs[None, :]
        if ((CHAIN * BD - BD) & d) == CHAIN * BD - BD or d + BD >= D:  # (d + BD) % (CHAIN · BD) is 0, or the end
            total, lost = add(total, lost, tl.sum(acc, axis=1))
            acc = tl.zeros([C, BD], tl.float32)
    return joined(total, lost)
