"""Rows of a weight gradient: Σ coef[entry] · u[token] over the entries of a feature, in the order of its tokens.

A feature that fires on thousands of tokens must not keep one program busy while the others are done. So the sorted
entries are cut into windows of WINDOW; ``windows`` sums those that lie within a single feature, one program each, and
the program of the feature adds the windows to what is left at both ends. The order of additions is fixed: the same
bits every run, no atomics.
"""

import triton
import triton.language as tl


@triton.jit
def sum_rows(entries, tokens, coef, bias, u, first, last, cols, D, acc, total, J: tl.constexpr):
    """acc + Σ coef[entries[p]] · u[tokens[p], cols] over the places first:last, J rows in flight; and total [J] + the
    entries' bias gradients, every J-th: ``bias``, or coef where there is none."""
    for s in range(first, last, J):
        p = s + tl.arange(0, J)
        live = p < last
        e = tl.load(entries + p, mask=live, other=0)
        c = tl.load(coef + e, mask=live, other=0.0).to(tl.float32)
        if bias is None:
            total += c
        else:
            total += tl.load(bias + e, mask=live, other=0.0).to(tl.float32)
        t = tl.load(tokens + p, mask=live, other=0).to(tl.int64)
        at = u + t[:, None] * D + cols[None, :]
        rows = tl.load(at, mask=live[:, None] & (cols < D)[None, :], other=0.0).to(tl.float32)
        acc += tl.sum(c[:, None] * rows, axis=0)
    return acc, total


@triton.jit
def feature_at(starts, F, place):
    """The feature that owns a place: the last f with starts[f] ≤ place, by bisection."""
    low = tl.zeros([], tl.int32)
    high = low + F - 1
    while low < high:
        middle = low + (high - low + 1) // 2
        if tl.load(starts + middle) <= place:
            low = middle
        else:
            high = middle - 1
    return low


@triton.jit
def windows(
    starts, entries, tokens, coef, bias, u, sums, totals, F, D, WINDOW,
    J: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """sums[q] = Σ over window q, where it lies within one feature; the others are left unwritten and unread. totals[q]
    is that of the bias gradients, where given."""
    parts = tl.cdiv(D, BD)
    q = (tl.program_id(0) // parts).to(tl.int64)
    first, last = q * WINDOW, (q + 1) * WINDOW
    f = feature_at(starts, F, first)
    if tl.load(starts + f + 1) >= last:
        cols = (tl.program_id(0) % parts) * BD + tl.arange(0, BD)
        acc, total = tl.zeros([BD], tl.float32), tl.zeros([J], tl.float32)
        acc, total = sum_rows(entries, tokens, coef, bias, u, first, last, cols, D, acc, total, J)
        tl.store(sums + q * D + cols, acc, mask=cols < D)
        if totals is not None:
            tl.store(totals + q, tl.sum(total), mask=tl.program_id(0) % parts == 0)


@triton.jit
def feature_row(
    starts, entries, tokens, coef, bias, u, sums, totals, f, cols, D, WINDOW,
    J: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The gradient row of feature f at cols, [BD], and the sum of its bias gradients where ``totals`` is given."""
    start, end = tl.load(starts + f), tl.load(starts + f + 1)
    q0, q1 = (start + WINDOW - 1) // WINDOW, end // WINDOW
    whole = q1 > q0
    acc, total = tl.zeros([BD], tl.float32), tl.zeros([J], tl.float32)
    middle = tl.where(whole, q0 * WINDOW, end)
    acc, total = sum_rows(entries, tokens, coef, bias, u, start, middle, cols, D, acc, total, J)
    whole_windows = tl.zeros([], tl.float32)
    for q in range(q0, q1):
        at = sums + (q + tl.arange(0, 1))[:, None] * D + cols[None, :]  # laid out like the rows, so that it stays there
        acc += tl.sum(tl.load(at, mask=(cols < D)[None, :], other=0.0), axis=0)
        if totals is not None:
            whole_windows += tl.load(totals + q)
    middle = tl.where(whole, q1 * WINDOW, end)
    acc, total = sum_rows(entries, tokens, coef, bias, u, middle, end, cols, D, acc, total, J)
    return acc, tl.sum(total) + whole_windows


@triton.jit
def row_grad(
    starts, entries, tokens, coef, u, sums, out, D, WINDOW,
    J: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """out[f] = Σ coef · u[token]. One program: one feature, BD columns."""
    parts = tl.cdiv(D, BD)
    f = (tl.program_id(0) // parts).to(tl.int64)
    cols = (tl.program_id(0) % parts) * BD + tl.arange(0, BD)
    acc, _ = feature_row(starts, entries, tokens, coef, None, u, sums, None, f, cols, D, WINDOW, J, BD)
    tl.store(out + f * D + cols, acc, mask=cols < D)


@triton.jit
def feature_sum(starts, entries, coef, out, B: tl.constexpr):
    """out[f] = Σ coef[entry]. One program: one feature."""
    f = tl.program_id(0).to(tl.int64)
    end = tl.load(starts + f + 1)
    acc = tl.zeros([B], tl.float32)
    for s in range(tl.load(starts + f), end, B):
        p = s + tl.arange(0, B)
        acc += tl.load(coef + tl.load(entries + p, mask=p < end, other=0), mask=p < end, other=0.0).to(tl.float32)
    tl.store(out + f, tl.sum(acc))
