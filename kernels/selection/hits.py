"""Hits: the few products of a tile that exceed their row's threshold, taken from the registers of the tensor cores.

One product in a hundred is a hit. Each product costs one comparison and a branch, with a threshold that holds for all
of the tile's features; the counter, the address and the store are behind the branch, for each thread by itself.
Triton would move addresses and masks of all products to another layout before an atomic operation.
"""

import triton
import triton.language as tl
from monosem.kernels.selection.bound import error_bound
from monosem.kernels.selection.order import pack, rank32


@triton.jit
def tile_threshold(
    x_length, x_error, w_length, w_error, threshold, rows, cols, N, F, rounding,
    DITHERED: tl.constexpr,
):  # fmt: skip
    """Products [rows, cols] that are not above it have upper bounds that are not above the row's threshold.

    With M the margin of the row and the tile's longest feature, v + |v|·2⁻²¹ + M ≤ threshold holds for every
    v ≤ (threshold − M) − |threshold − M|·2⁻²⁰; the norms in M have room for its own rounding.
    """
    longest = tl.load(w_length + cols, mask=cols < F, other=0.0)
    furthest = tl.load(w_error + cols, mask=cols < F, other=0.0)
    long, off = tl.split(tl.max(tl.join(longest, furthest), axis=0))
    length = tl.load(x_length + rows, mask=rows < N, other=0.0)
    error = tl.load(x_error + rows, mask=rows < N, other=0.0)
    low = tl.load(threshold + rows, mask=rows < N, other=0.0) - error_bound(
        length, error, long, off, rounding, DITHERED
    )
    low -= tl.abs(low) * 2.0**-20
    return tl.where(low == low, low, float("-inf"))


@triton.jit
def append(v, least, keys, count, rows, cols, CAP: tl.constexpr, PORTABLE: tl.constexpr):
    """Append to each row of keys the entries of v [rows, cols] that are above ``least`` of the row, or NaN. Entries
    without a free slot are counted too."""
    counter = count + rows
    start = keys + rows.to(tl.int64) * CAP
    if PORTABLE:
        hit = (v > least[:, None]) | (v != v)
        slot = tl.atomic_add(counter[:, None] + tl.zeros_like(v).to(tl.int32), 1, mask=hit, sem="relaxed")
        tl.store(start[:, None] + slot, pack(rank32(v), cols[None, :]), mask=hit & (slot < CAP))
    else:
        tl.inline_asm_elementwise(
            """
            {
            .reg .pred miss, nan;
            .reg .b32 slot, bits, flip;
            .reg .b64 at;
            mov.b32 $0, 0;
            setp.le.f32 miss, $1, $2;
            @miss bra DONE;
            atom.relaxed.gpu.global.add.u32 slot, [$3], 1;
            setp.ge.u32 miss, slot, $6;
            @miss bra DONE;
            add.f32 bits, $1, 0f00000000;
            setp.nan.f32 nan, bits, bits;
            shr.s32 flip, bits, 31;
            and.b32 flip, flip, 0x7FFFFFFF;
            xor.b32 bits, bits, flip;
            selp.b32 bits, 0x7FFFFFFF, bits, nan;
            mad.wide.u32 at, slot, 8, $4;
            not.b32 flip, $5;
            st.global.v2.b32 [at], {flip, bits};
            DONE:
            }
            """,
            "=r,f,f,l,l,r,r",
            [v, least[:, None], counter.to(tl.int64)[:, None], start.to(tl.int64)[:, None], cols[None, :], CAP],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
