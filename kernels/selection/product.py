"""The product x·wᵀ on tensor cores, and the features that may be above each row's threshold. Proof: ``bound.py``."""

import triton
import triton.language as tl
from monosem.kernels.selection.bound import upper_bound
from monosem.kernels.selection.dither import value
from monosem.kernels.selection.hits import append, tile_threshold
from monosem.kernels.selection.order import pack, rank32


@triton.jit
def round_rows(t, rounded, length, error, N, D, WIDTH, COPY: tl.constexpr, R: tl.constexpr, BD: tl.constexpr):
    """Rows in the product's dtype, padded with 0 to WIDTH, with ‖t‖ and ‖t − rounded‖ of each, both rounded up."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    inside = (row < N)[:, None]
    squares = tl.zeros([R, BD], tl.float32)
    some = tl.zeros([R, BD], tl.float32)
    errors = tl.zeros([R, BD], tl.float32)
    for d in range(0, WIDTH, BD):
        cols = d + tl.arange(0, BD)
        v = tl.load(t + row[:, None] * D + cols[None, :], mask=inside & (cols < D)[None, :], other=0.0).to(tl.float32)
        squares += v * v
        some += tl.where(v != 0, 1.0, 0.0)
        if COPY:
            low = v.to(rounded.dtype.element_ty)
            tl.store(rounded + row[:, None] * WIDTH + cols[None, :], low, mask=inside & (cols < WIDTH)[None, :])
            e = v - low.to(tl.float32)
            errors += e * e
    least = tl.where(tl.sum(some, axis=1) > 0, 1e-14, 0.0)  # a row of zeros has exact products
    # fp32 sums of squares are good to 2⁻²⁴ times their additions; a thousandth covers any width.
    tl.store(length + row, tl.sqrt(tl.sum(squares, axis=1)) * 1.001 + least, mask=row < N)
    tl.store(error + row, tl.sqrt(tl.sum(errors, axis=1)) * 1.001 + least, mask=row < N)


@triton.jit
def tile(x, w, rows, features, WIDTH, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, FP32: tl.constexpr):
    """x[rows]·w[features]ᵀ in fp32, of int8 in int32: [BM, BN]. WIDTH is a multiple of BK; all are within bounds."""
    k = tl.arange(0, BK)
    left = x + rows.to(tl.int64)[:, None] * WIDTH + k[None, :]
    right = w + features.to(tl.int64)[None, :] * WIDTH + k[:, None]
    acc = tl.zeros([BM, BN], tl.int32 if x.dtype.element_ty == tl.int8 else tl.float32)
    for _ in range(0, WIDTH, BK):
        a, b = tl.load(left), tl.load(right)
        if x.dtype.element_ty == tl.int8:
            acc = tl.dot(a, b, acc, out_dtype=tl.int32)
        elif FP32:  # asked for, or Triton's interpreter, which cannot multiply bf16; bf16 values stay what they are
            acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
        else:
            acc = tl.dot(a, b, acc)
        left += BK
        right += BK
    return acc


@triton.jit
def pre_activations(acc, b, x_scale, x_offset, w_scale, w_offset, rows, features):
    """Pre-activations from products of the rounded rows. Scales and offsets: of int8, else None."""
    if x_scale is not None:
        acc = value(
            acc, tl.load(x_scale + rows), tl.load(x_offset + rows), tl.load(w_scale + features),
            tl.load(w_offset + features),
        )  # fmt: skip
    return acc + tl.load(b + features).to(tl.float32)[None, :]


@triton.jit
def sampled_feature(i, stride):
    """Feature of sample column i: one of each run of ``stride`` features, at a place that looks random."""
    scattered = ((i.to(tl.int64) * 2654435761) >> 7) & 0xFFFFFF
    return i * stride + (scattered % stride).to(tl.int32)


@triton.jit
def sample(
    x, w, b, x_scale, x_offset, w_scale, w_offset, out, N, SAMPLE, STRIDE, WIDTH,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, FP32: tl.constexpr,
):  # fmt: skip
    """Approximate pre-activations of SAMPLE features spread over all: out [N, SAMPLE]."""
    tiles = tl.cdiv(SAMPLE, BN)
    rows = (tl.program_id(0) // tiles) * BM + tl.arange(0, BM)
    cols = (tl.program_id(0) % tiles) * BN + tl.arange(0, BN)
    features = sampled_feature(cols % SAMPLE, STRIDE)
    acc = tile(x, w, rows % N, features, WIDTH, BM, BN, BK, FP32)
    v = pre_activations(acc, b, x_scale, x_offset, w_scale, w_offset, rows % N, features)
    at = out + rows.to(tl.int64)[:, None] * SAMPLE + cols[None, :]
    tl.store(at, v, mask=(rows < N)[:, None] & (cols < SAMPLE)[None, :])


@triton.jit
def keep(
    acc, b, x_length, x_error, w_length, w_error, threshold, keys, count, rows, cols, N, F, rounding,
    CAP: tl.constexpr, ALL: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Append the products [rows, cols] whose upper bound is above the row's threshold."""
    row_in, col_in = rows < N, cols < F
    length = tl.load(x_length + rows, mask=row_in, other=0.0)[:, None]
    error = tl.load(x_error + rows, mask=row_in, other=0.0)[:, None]
    long = tl.load(w_length + cols, mask=col_in, other=0.0)[None, :]
    off = tl.load(w_error + cols, mask=col_in, other=0.0)[None, :]
    v = acc + tl.load(b + cols, mask=col_in, other=0.0).to(tl.float32)[None, :]
    upper = upper_bound(v, 0.0, length, error, long, off, rounding, False)
    inside = row_in[:, None] & col_in[None, :]
    start = rows.to(tl.int64)[:, None] * CAP
    if ALL:
        tl.store(keys + start + cols[None, :], pack(rank32(upper), cols[None, :]), mask=inside)
    else:
        hit = inside & ((upper > tl.load(threshold + rows, mask=row_in, other=0.0)[:, None]) | (upper != upper))
        slot = tl.atomic_add(count + rows[:, None] + tl.zeros([1, BN], tl.int32), 1, mask=hit, sem="relaxed")
        tl.store(keys + start + slot, pack(rank32(upper), cols[None, :]), mask=hit & (slot < CAP))


@triton.jit
def halves(t, BM: tl.constexpr, BN: tl.constexpr):
    """The left and the right columns of t [BM, BN]."""
    return tl.split(tl.permute(tl.reshape(t, (BM, 2, BN // 2)), (0, 2, 1)))


@triton.jit
def keep_hits(
    acc, b, x_scale, x_offset, w_scale, w_offset, least, keys, count, rows, cols, N, F,
    CAP: tl.constexpr, PORTABLE: tl.constexpr,
):  # fmt: skip
    """Append the products [rows, cols] that are above ``least`` of their row."""
    v = pre_activations(acc, b, x_scale, x_offset, w_scale, w_offset, rows % N, cols % F)
    # Entries outside are −∞ and never candidates.
    v = tl.where((rows < N)[:, None] & (cols < F)[None, :], v, float("-inf"))
    append(v, least, keys, count, rows % N, cols, CAP, PORTABLE)


@triton.jit
def collect(
    x, w, b, x_length, x_error, x_scale, x_offset, w_length, w_error, w_scale, w_offset, threshold, keys, count, N, F,
    WIDTH, rounding,
    CAP: tl.constexpr, ALL: tl.constexpr, LOOSE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    GROUP: tl.constexpr, FP32: tl.constexpr, PORTABLE: tl.constexpr,
):  # fmt: skip
    """Keep the features whose upper bound is above the row's threshold: keys [N, CAP], count [N].

    ``count`` counts all of them, also those for which there was no slot. The slots are handed out by an atomic
    counter, so their order differs from run to run; nothing that follows depends on it. With ALL, every feature has
    the slot of its number and no counter is needed. LOOSE: what is kept is the product, and kept where the largest
    margin of the tile would bring it above the threshold (``hits.py``); int8 has this form only.
    """
    down, across = tl.cdiv(N, BM), tl.cdiv(F, BN)
    # Programs that run together share rows and features: GROUP blocks of rows beside one another.
    group = tl.program_id(0) // (GROUP * across)
    height = tl.minimum(down - group * GROUP, GROUP)
    within = tl.program_id(0) % (GROUP * across)
    rows = (group * GROUP + within % height) * BM + tl.arange(0, BM)
    cols = (within // height) * BN + tl.arange(0, BN)
    if LOOSE:
        DITHERED: tl.constexpr = x_scale is not None
        least = tile_threshold(x_length, x_error, w_length, w_error, threshold, rows, cols, N, F, rounding, DITHERED)
        acc = tile(x, w, rows % N, cols % F, WIDTH, BM, BN, BK, FP32)
        if DITHERED:  # in quarters of the columns, each with scales and offsets of its own
            left, right = halves(acc, BM, BN)
            first = (within // height) * BN + tl.arange(0, BN // 4)
            for half in tl.static_range(2):
                one, two = halves(left if half == 0 else right, BM, BN // 2)
                for quarter in tl.static_range(2):
                    keep_hits(
                        one if quarter == 0 else two, b, x_scale, x_offset, w_scale, w_offset, least, keys, count, rows,
                        first + (2 * half + quarter) * (BN // 4), N, F, CAP, PORTABLE,
                    )  # fmt: skip
        else:
            keep_hits(acc, b, x_scale, x_offset, w_scale, w_offset, least, keys, count, rows, cols, N, F, CAP, PORTABLE)
    else:
        acc = tile(x, w, rows % N, cols % F, WIDTH, BM, BN, BK, FP32)
        # In two halves of the columns: a thread cannot hold all values, slots and addresses at once.
        left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
        first = (within // height) * BN + tl.arange(0, BN // 2)
        keep(
            left, b, x_length, x_error, w_length, w_error, threshold, keys, count, rows, first, N, F, rounding, CAP,
            ALL, BN // 2,
        )  # fmt: skip
        keep(
            right, b, x_length, x_error, w_length, w_error, threshold, keys, count, rows, first + BN // 2, N, F,
            rounding, CAP, ALL, BN // 2,
        )  # fmt: skip
