"""The k largest of each row of x·wᵀ + b, exactly, without the row.

    sample → bar → collect → narrow → score → widen → score → redo → emit

A bar from a sample of the columns lets a few hundred of F features through (``product.collect``). ``narrow`` takes the
k of largest upper bound, ``score`` computes them in fp32: the least of them, t, is a number that k features reach.
``widen`` adds every other feature whose upper bound reaches t; what is left out is below t in fp32. A row is certified
when there was room for all that came through and the bar was below t. The others are listed and computed from all F
features by ``redo``, whose programs end at once when the list is empty: no answer depends on luck, and the host need
not know. Nothing reads what another program of the same launch wrote, except to append to a list by an atomic counter.
"""

import triton
import triton.language as tl

from monosem.kernels.order import (
    LOWEST,
    LOWEST32,
    NAN32,
    feature_of,
    kth_largest,
    number,
    pack,
    raised,
    rank32,
    rank_of,
    reaching,
    two_largest,
)  # fmt: skip


@triton.jit
def set_bar(
    values, x_length, x_error, w_length, w_error, out, SAMPLE, rounding, j, j_most,
    BS: tl.constexpr,
):  # fmt: skip
    """Bar of a row: what the j-th of the sample is sure of, but not so low that more than the j_most-th comes through.

    Any bar is right, for it is checked after; this one makes a failure rare. ``w_length`` and ``w_error`` are the
    largest of all features.
    """
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BS)
    v = tl.load(values + row * SAMPLE + i, mask=i < SAMPLE, other=0.0)
    ranks = tl.where(i < SAMPLE, rank32(v), LOWEST32)
    reached, floor = two_largest(ranks, j, j_most)
    reached, floor = number(reached), number(floor)
    length, error = tl.load(x_length + row), tl.load(x_error + row)
    margin = tl.load(w_length) * (error + rounding * length) + tl.load(w_error) * (length + error)
    bar = tl.minimum(reached, tl.maximum(reached - margin, floor + margin))
    tl.store(out + row, tl.where(bar == bar, bar, float("-inf")))


@triton.jit
def narrow(keys, count, listed, bound, first, k, CAP: tl.constexpr):
    """List the features of the k largest upper bounds (more where bounds are equal)."""
    row = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, CAP)
    live = slots < tl.load(count + row)
    key = tl.load(keys + row * CAP + slots, mask=live, other=LOWEST)
    ranks = rank_of(key)
    t = kth_largest(ranks, k)
    top = live & (ranks >= t)
    taken = top.to(tl.int32)
    tl.store(listed + row * CAP + tl.cumsum(taken) - 1, feature_of(key), mask=top)
    tl.store(bound + row, t)
    tl.store(first + row, tl.sum(taken))


@triton.jit
def score_block(x_row, w, b, features, live, D, C: tl.constexpr, BD: tl.constexpr):
    """Ranks of C pre-activations of one row, computed in fp32.

    All scores are made here, with one BD and one number of warps, which are what the order of additions depends on:
    equal rows have equal bits, whether they are redone or not.
    """
    at = w + features.to(tl.int64)[:, None] * D
    acc = tl.zeros([C, BD], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        xs = tl.load(x_row + cols, mask=cols < D, other=0.0).to(tl.float32)
        ws = tl.load(at + cols[None, :], mask=live[:, None] & (cols < D)[None, :], other=0.0).to(tl.float32)
        acc += ws * xs[None, :]
    return rank32(tl.sum(acc, axis=1) + tl.load(b + features, mask=live, other=0.0).to(tl.float32))


@triton.jit
def score(x, w, b, listed, begin, end, exact, D, CAP: tl.constexpr, C: tl.constexpr, BD: tl.constexpr):
    """Exact keys of the listed features ``begin[row]:end[row]``."""
    row = tl.program_id(0).to(tl.int64)
    last = tl.load(end + row)
    for s in range(tl.load(begin + row), last, C):
        slots = s + tl.arange(0, C)
        live = slots < last
        features = tl.load(listed + row * CAP + slots, mask=live, other=0)
        ranks = score_block(x + row * D, w, b, features, live, D, C, BD)
        tl.store(exact + row * CAP + slots, pack(ranks, features), mask=live)


@triton.jit
def widen(
    keys, count, bar, listed, bound, first, exact, end, is_nan, todo, n_todo, k,
    CAP: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    """List what else may belong to the k largest, and the row itself if that cannot be known from its candidates."""
    row = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, CAP)
    n, n_first = tl.load(count + row), tl.load(first + row)
    scored = rank_of(tl.load(exact + row * CAP + slots, mask=slots < n_first, other=LOWEST))
    nan = tl.max(scored) == NAN32
    least = tl.min(tl.where(slots < n_first, scored, NAN32))
    key = tl.load(keys + row * CAP + slots, mask=slots < n, other=LOWEST)
    ranks = rank_of(key)
    more = (slots < n) & (ranks < tl.load(bound + row)) & (ranks >= least)
    redo = nan & False
    if not ALL:
        redo = (not nan) & ((n < k) | (n > CAP) | (rank32(tl.load(bar + row)) >= least))
        if redo:
            tl.store(todo + tl.atomic_add(n_todo, 1, sem="relaxed"), row.to(tl.int32))
    more = more & (not nan) & (not redo)
    taken = more.to(tl.int32)
    tl.store(listed + row * CAP + n_first + tl.cumsum(taken) - 1, feature_of(key), mask=more)
    tl.store(end + row, n_first + tl.sum(taken))
    tl.store(is_nan + row, nan.to(tl.int32))


@triton.jit
def counted(ranks, low, shift, width, BF: tl.constexpr):
    """How many of ``width`` ranks in memory reach low + 1, 2 and 3 · 2^shift, in three fields of 21 bits."""
    n = tl.zeros([BF], tl.int64)
    for c in range(0, width, BF):
        cols = c + tl.arange(0, BF)
        r = tl.load(ranks + cols, mask=cols < width, other=LOWEST32)
        n += reaching(r, low, shift)
    return tl.sum(n)


@triton.jit
def select_share(ranks, keys, first, width, k, BF: tl.constexpr):
    """Write the k largest of ``width`` ranks in memory as keys, lowest feature first among equals; where there are
    fewer, LOWEST. Returns whether one is NaN."""
    low = tl.full([], -(2**31), tl.int64)
    for step in range(16):
        low = raised(low, counted(ranks, low, 30 - 2 * step, width, BF), 30 - 2 * step, k)
    t = low.to(tl.int32)
    above = tl.zeros([], tl.int32)
    nan = tl.zeros([], tl.int32)
    for c in range(0, width, BF):
        cols = c + tl.arange(0, BF)
        r = tl.load(ranks + cols, mask=cols < width, other=LOWEST32)
        above += tl.sum((r > t).to(tl.int32))
        nan = tl.maximum(nan, tl.max((r == NAN32).to(tl.int32)))
    at = tl.zeros([], tl.int32)
    equal = tl.zeros([], tl.int32)
    for c in range(0, width, BF):
        cols = c + tl.arange(0, BF)
        r = tl.load(ranks + cols, mask=cols < width, other=LOWEST32)
        same = ((r == t) & (cols < width)).to(tl.int32)
        take = (r > t) | ((same != 0) & (equal + tl.cumsum(same) <= k - above))
        taken = take.to(tl.int32)
        tl.store(keys + at + tl.cumsum(taken) - 1, pack(r, first + cols), mask=take)
        at += tl.sum(taken)
        equal += tl.sum(same)
    for c in range(at, k, BF):
        cols = c + tl.arange(0, BF)
        tl.store(keys + cols, tl.full([BF], LOWEST, tl.int64), mask=cols < k)
    return nan


@triton.jit
def redo(
    x, w, b, todo, n_todo, space, exact, end, is_nan, F, D, k, WIDTH, SPLITS,
    CAP: tl.constexpr, R: tl.constexpr, C: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """The rows of the list from all features: the k largest of each share of WIDTH features, for ``emit`` to order.

    A program takes R rows at a time through its share, so that a row of w comes from memory once for all R; ``space``
    [programs, R, WIDTH] is its own. ``end`` and ``is_nan`` get the same from whichever program writes.
    """
    share = tl.program_id(0) % SPLITS
    first = share * WIDTH
    width = tl.maximum(tl.minimum(F - first, WIDTH), 0)
    own = space + tl.program_id(0).to(tl.int64) * R * WIDTH
    n = tl.load(n_todo)
    for i in range((tl.program_id(0) // SPLITS) * R, n, (tl.num_programs(0) // SPLITS) * R):
        together = tl.minimum(n - i, R)
        for c in range(0, width, C):
            cols = c + tl.arange(0, C)
            for r in range(0, together):
                row = tl.load(todo + i + r).to(tl.int64)
                ranks = score_block(x + row * D, w, b, first + cols, cols < width, D, C, BD)
                tl.store(own + r * WIDTH + cols, ranks, mask=cols < width)
        tl.debug_barrier()  # the program's threads now read what others of them wrote
        for r in range(0, together):
            row = tl.load(todo + i + r).to(tl.int64)
            nan = select_share(own + r * WIDTH, exact + row * CAP + share * k, first, width, k, BF)
            tl.store(end + row, SPLITS * k)
            if nan != 0:
                tl.store(is_nan + row, nan)
        tl.debug_barrier()


@triton.jit
def emit(exact, end, is_nan, values, indices, k, CAP: tl.constexpr, B: tl.constexpr):
    """Place of a key = how many are larger. The first k leave, after ReLU; a row with NaN is NaN."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(end + row)
    keys = exact + row * CAP
    i = tl.arange(0, B)
    if tl.load(is_nan + row) != 0:
        for s in range(0, k, B):
            tl.store(values + row * k + s + i, tl.full([B], float("nan"), tl.float32), mask=s + i < k)
            tl.store(indices + row * k + s + i, s + i, mask=s + i < k)
    else:
        for s in range(0, n, B):
            mine = tl.load(keys + s + i, mask=s + i < n, other=LOWEST)
            place = tl.zeros([B], tl.int32)
            for o in range(0, n, B):
                others = tl.load(keys + o + i, mask=o + i < n, other=LOWEST)
                place += tl.sum((others[None, :] > mine[:, None]).to(tl.int32), axis=1)
            v = number(rank_of(mine))
            keep = (s + i < n) & (place < k)
            tl.store(values + row * k + place, tl.where(v > 0, v, 0.0), mask=keep)
            tl.store(indices + row * k + place, feature_of(mine), mask=keep)
