"""A code sorted by (feature, token): a counting sort in integers.

    count → [starts: a sum over features] → scatter → settle

``scatter`` puts each entry somewhere among those of its feature, by an atomic counter; ``settle`` moves it to its
place, which is the number of smaller entries of the same feature. So the order does not depend on which program came
first.
"""

import triton
import triton.language as tl


@triton.jit
def count(indices, offsets, counts, B: tl.constexpr):
    """counts[f] = entries of feature f. One program: one token."""
    n = tl.program_id(0).to(tl.int64)
    last = tl.load(offsets + n + 1)
    for s in range(tl.load(offsets + n), last, B):
        e = s + tl.arange(0, B)
        f = tl.load(indices + e, mask=e < last, other=0)
        tl.atomic_add(counts + f, 1, mask=e < last, sem="relaxed")


@triton.jit
def scatter(indices, offsets, starts, taken, entries, tokens, B: tl.constexpr):
    """Each entry and its token to some free place of its feature. One program: one token."""
    n = tl.program_id(0).to(tl.int64)
    last = tl.load(offsets + n + 1)
    for s in range(tl.load(offsets + n), last, B):
        e = s + tl.arange(0, B)
        live = e < last
        f = tl.load(indices + e, mask=live, other=0)
        at = tl.load(starts + f, mask=live, other=0) + tl.atomic_add(taken + f, 1, mask=live, sem="relaxed")
        tl.store(entries + at, e, mask=live)
        tl.store(tokens + at, n.to(tl.int32) + tl.zeros([B], tl.int32), mask=live)


@triton.jit
def settle(
    starts, indices, loose_entries, loose_tokens, entries, tokens, nnz, F,
    B: tl.constexpr, WALK: tl.constexpr,
):  # fmt: skip
    """Each entry to its place. One program: B places in a row, whose features' entries it walks over."""
    place = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    live = place < tl.load(starts + F)  # there may be room for more
    mine = tl.load(loose_entries + place, mask=live, other=0)
    f = tl.load(indices + mine, mask=live, other=0)
    start = tl.load(starts + f, mask=live, other=0)
    end = tl.load(starts + f + 1, mask=live, other=0)
    # Places in a row belong to features in a row: all entries of all of them lie between these two.
    first = tl.min(tl.where(live, start, nnz))
    last = tl.max(end)
    before = tl.zeros([B], tl.int64)
    for s in range(first, last, WALK):
        o = s + tl.arange(0, WALK)
        other = tl.load(loose_entries + o, mask=o < last, other=0)
        same = (o[None, :] >= start[:, None]) & (o[None, :] < end[:, None])
        before += tl.sum((same & (other[None, :] < mine[:, None])).to(tl.int64), axis=1)
    tl.store(entries + start + before, mine, mask=live)
    tl.store(tokens + start + before, tl.load(loose_tokens + place, mask=live, other=0), mask=live)
