"""The k largest of each row of x·wᵀ + b, exactly, without storing the row.

    candidates → choose → redo → emit

However candidates are found (``product.collect`` with a threshold from a sample, ``sift.sift`` with one that rises),
there are some hundreds of F features, each with an upper bound, and a threshold that the upper bounds of all others
do not exceed. ``choose`` scores the k of largest bound in fp32: the least of them, t, is a number that k features
reach. It adds every other candidate whose bound reaches t, and orders the scores. A row is certified when its
candidates fitted and the threshold was below t. The other rows are listed and computed from all F features by
``redo``, whose programs end at once when the list is empty: no answer depends on luck, and the host need not know. No
program reads what another program of the same launch wrote, except to append to a list by an atomic counter.
"""

import triton
import triton.language as tl
from monosem.kernels.selection.bound import upper_bound
from monosem.kernels.selection.order import (
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
)
from monosem.kernels.selection.score import score_block, score_listed


@triton.jit
def write_row(keys, n, values, indices, k, B: tl.constexpr):
    """The first k of n different keys, after ReLU. Place of a key = how many are larger."""
    i = tl.arange(0, B)
    for s in range(0, n, B):
        mine = tl.load(keys + s + i, mask=s + i < n, other=LOWEST)
        place = tl.zeros([B], tl.int32)
        for o in range(0, n, B):
            others = tl.load(keys + o + i, mask=o + i < n, other=LOWEST)
            place += tl.sum((others[None, :] > mine[:, None]).to(tl.int32), axis=1)
        v = number(rank_of(mine))
        keep = (s + i < n) & (place < k)
        tl.store(values + place, tl.where(v > 0, v, 0.0), mask=keep)
        tl.store(indices + place, feature_of(mine), mask=keep)


@triton.jit
def write_nan(values, indices, k, B: tl.constexpr):
    for s in range(0, k, B):
        i = s + tl.arange(0, B)
        tl.store(values + i, tl.full([B], float("nan"), tl.float32), mask=i < k)
        tl.store(indices + i, i, mask=i < k)


@triton.jit
def choose(
    x, w, b, x_length, x_error, w_length, w_error, threshold, keys, count, listed, exact, values, indices, first, end,
    todo, n_todo, D, rounding, k,
    CAP: tl.constexpr, LISTED: tl.constexpr, ALL: tl.constexpr, LOOSE: tl.constexpr,
    DITHERED: tl.constexpr, C: tl.constexpr, BD: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """From a row's candidates to its k largest; or the row is appended to the list of rows to redo.

    LOOSE: the keys are of products, not of upper bounds. ``first`` and ``end``: how many were scored to know t, and in
    all. Barriers stand between what some threads of the program write and others read.
    """
    row = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, CAP)
    n = tl.load(count + row)
    live = slots < n
    key = tl.load(keys + row * CAP + slots, mask=live, other=LOWEST)
    if LOOSE:
        features = feature_of(key)
        v = number(rank_of(key))
        length, error = tl.load(x_length + row), tl.load(x_error + row)
        long = tl.load(w_length + features, mask=live, other=0.0)
        off = tl.load(w_error + features, mask=live, other=0.0)
        upper = upper_bound(v, 0.0, length, error, long, off, rounding, DITHERED)
        key = tl.where(live, pack(rank32(upper), features), LOWEST)
    ranks = rank_of(key)
    t = kth_largest(ranks, k)
    top = live & (ranks >= t)
    taken = top.to(tl.int32)
    n_top = tl.sum(taken)
    mine, scores = listed + row * LISTED, exact + row * LISTED
    place = tl.cumsum(taken) - 1
    tl.store(mine + place, feature_of(key), mask=top & (place < LISTED))
    n_first = tl.minimum(n_top, LISTED)
    tl.debug_barrier()
    score_listed(x + row * D, w, b, mine, scores, 0, n_first, D, C, BD)
    tl.debug_barrier()
    slot = tl.arange(0, LISTED)
    scored = rank_of(tl.load(scores + slot, mask=slot < n_first, other=LOWEST))
    least = tl.min(tl.where(slot < n_first, scored, NAN32))
    more = live & (ranks < t) & (ranks >= least)
    added = more.to(tl.int32)
    n_all = n_top + tl.sum(added)
    again = n < 0
    if not ALL:
        again = (n < k) | (n > CAP) | (n_all > LISTED) | (rank32(tl.load(threshold + row)) >= least)
    tl.store(first + row, n_first)
    tl.store(end + row, n_first)
    if tl.max(scored) == NAN32:
        write_nan(values + row * k, indices + row * k, k, B)
    elif again:
        tl.store(todo + tl.atomic_add(n_todo, 1, sem="relaxed"), row.to(tl.int32))
    else:
        tl.store(end + row, n_all)
        tl.store(mine + n_top + tl.cumsum(added) - 1, feature_of(key), mask=more)
        tl.debug_barrier()
        score_listed(x + row * D, w, b, mine, scores, n_top, n_all, D, C, BD)
        tl.debug_barrier()
        write_row(scores, n_all, values + row * k, indices + row * k, k, B)


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
    fewer, LOWEST."""
    low = tl.full([], -(2**31), tl.int64)
    for step in range(16):
        low = raised(low, counted(ranks, low, 30 - 2 * step, width, BF), 30 - 2 * step, k)
    t = low.to(tl.int32)
    above = tl.zeros([], tl.int32)
    for c in range(0, width, BF):
        cols = c + tl.arange(0, BF)
        r = tl.load(ranks + cols, mask=cols < width, other=LOWEST32)
        above += tl.sum((r > t).to(tl.int32))
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


@triton.jit
def redo(
    x, w, b, todo, n_todo, space, keys, F, D, k, WIDTH, SPLITS,
    CAP: tl.constexpr, R: tl.constexpr, C: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """The rows of the list from all features: the k largest of each share of WIDTH features, for ``emit`` to order.

    A program takes R rows at a time through its share, so that a row of w is read once for all R; ``space``
    [programs, R, WIDTH] is its own. ``keys`` is overwritten: the row's candidates are no longer needed.
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
            select_share(own + r * WIDTH, keys + row * CAP + share * k, first, width, k, BF)
        tl.debug_barrier()


@triton.jit
def emit(todo, n_todo, keys, values, indices, k, N_KEYS, CAP: tl.constexpr, B: tl.constexpr):
    """Write the rows of the list from the keys that ``redo`` left."""
    i = tl.arange(0, B)
    for r in range(tl.program_id(0), tl.load(n_todo), tl.num_programs(0)):
        row = tl.load(todo + r).to(tl.int64)
        largest = tl.full([B], LOWEST32, tl.int32)
        for s in range(0, N_KEYS, B):
            largest = tl.maximum(largest, rank_of(tl.load(keys + row * CAP + s + i, mask=s + i < N_KEYS, other=LOWEST)))
        if tl.max(largest) == NAN32:
            write_nan(values + row * k, indices + row * k, k, B)
        else:
            write_row(keys + row * CAP, N_KEYS, values + row * k, indices + row * k, k, B)
