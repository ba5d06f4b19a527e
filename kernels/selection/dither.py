"""Rows in 8 bits whose rounding errors are independent: Hadamard rotation, then subtractive dither.

A row r is rotated (random signs, Hadamard's matrix on blocks of a power of two of columns), which changes no product
and makes its largest entry small. With s = max|r|/126.5 and numbers u between −½ and ½, drawn once per column and side,

    q = round(r/s + u),    r̃ = s·(q − u).

Whatever r is, the entries of r̃ − r are independent and uniform between −s/2 and s/2, and so is what a product of two
such rows is off by a sum of independent numbers: ``docs/design/dithered_bound.md`` has the proof of the bound

    P( x·w − x̃·w̃ > C·√((L_w·sₓ)²/12 + (L_x·s_w)²/12) ) ≤ e^(−C²/2) = 10⁻²⁰    for C = 9.6, L = ‖r‖ + s·√D/2 ≥ ‖r̃‖,

where Cauchy-Schwarz has to assume that all errors point the same way. Products of the dither cost nothing: with
O_x = Σ (q_x − u_x)·u_w of a token and O_w = Σ u_x·q_w of a feature, x̃·w̃ = sₓ·s_w·(Σ q_x·q_w − O_x − O_w).

What is known of a row, in this order: LENGTH ≥ L, ERROR = C·s/√12 and a little, SCALE = s, OFFSET = O_x of a
token, s·O_w of a feature. The definition in PyTorch is ``ops/selection/dithered.py``.
"""

import triton
import triton.language as tl
from monosem.kernels.row_adam.moments import mixed

LEVELS = tl.constexpr(126.5)  # with the dither and the roundings, 127 at most
# C/√12, with a hundredth for what fp32 loses on the way to q: below 2⁻¹⁴ of s in each entry, √D·2⁻¹⁴ of C/√12 in all.
MARGIN = tl.constexpr(9.6 / 12**0.5 * 1.01)
LEAST = tl.constexpr(1e-30)  # a row without a larger entry becomes zeros
TINY = tl.constexpr(1e-14)  # in lengths and errors: covers such rows, and squares that are below fp32's numbers
TOKEN = tl.constexpr(0)
FEATURE = tl.constexpr(1)


@triton.jit
def noise(cols, side: tl.constexpr):
    """u of each column, in steps of 2⁻²⁴: the two sides' are different draws."""
    h = mixed(mixed(cols.to(tl.uint32) + (0x3C6EF372 if side == 0 else 0x1B873593)) + 0x51ED270B)
    return (h >> 8).to(tl.int32).to(tl.float32) * 2.0**-24 - 0.5


@triton.jit
def sign(cols):
    return tl.where((mixed(cols.to(tl.uint32) + 0x6A09E667) >> 16) & 1 != 0, -1.0, 1.0)


@triton.jit
def rotate(rows, R: tl.constexpr, BD: tl.constexpr, BITS: tl.constexpr):
    """rows [R, BD] by Hadamard's matrix on blocks of 2^BITS columns, after a sign for each column. Keeps lengths."""
    v = rows * sign(tl.arange(0, BD))[None, :]
    for level in tl.static_range(BITS):
        pairs = tl.permute(tl.reshape(v, (R, BD >> (level + 1), 2, 1 << level)), (0, 1, 3, 2))
        a, b = tl.split(pairs)
        v = tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 1, 3, 2)), (R, BD))
    return v * (2.0 ** (-0.5 * BITS))


@triton.jit
def quantize(rows, cols, WIDTH, SIDE: tl.constexpr, BITS: tl.constexpr, R: tl.constexpr, BD: tl.constexpr):
    """rows [R, BD], 0 beyond their end, in 8 bits: q int8 [R, BD], LENGTH, ERROR, SCALE and OFFSET [R]."""
    finite = tl.min((tl.abs(rows) < float("inf")).to(tl.int32), axis=1) != 0
    turned = rotate(rows, R, BD, BITS)
    most = tl.max(tl.abs(turned), axis=1)
    scale = tl.where(most > LEAST, most * (1.0 / LEVELS), 0.0)
    inverse = tl.where(most > LEAST, LEVELS / tl.maximum(most, LEAST), 0.0)
    inside = (cols < WIDTH)[None, :]
    mine, other = noise(cols, SIDE)[None, :], noise(cols, 1 - SIDE)[None, :]
    level = tl.where(inside & finite[:, None], tl.floor(turned * inverse[:, None] + mine + 0.5), 0.0)
    offset = tl.sum(tl.where(inside, (level if SIDE == 1 else level - mine) * other, 0.0), axis=1)
    some = tl.where(tl.max((rows != 0.0).to(tl.int32), axis=1) > 0, TINY, 0.0)
    # Not the length that r̃ happens to have: what bounds a probability may not depend on the dither.
    length = (tl.sqrt(tl.sum(rows * rows, axis=1)) + 0.5 * tl.sqrt(WIDTH.to(tl.float32)) * scale) * 1.001 + some
    # A row with NaN or an infinite entry gives NaN in every product, and so is computed in fp32.
    scale = tl.where(finite, scale, float("nan"))
    return level.to(tl.int8), length, scale * MARGIN + some, scale, offset * scale if SIDE == 1 else offset


@triton.jit
def write(
    rounded, known, at, N, WIDTH, cols, rows, SIDE: tl.constexpr, BITS: tl.constexpr, R: tl.constexpr, BD: tl.constexpr
):
    """Rows [R, BD] in 8 bits to ``rounded`` [N, WIDTH] at ``at``, and what is known of them to ``known`` [4, N]."""
    q, length, error, scale, offset = quantize(rows, cols, WIDTH, SIDE, BITS, R, BD)
    live = at < N
    tl.store(rounded + at[:, None] * WIDTH + cols[None, :], q, mask=live[:, None] & (cols < WIDTH)[None, :])
    tl.store(known + at, length, mask=live)
    tl.store(known + N + at, error, mask=live)
    tl.store(known + 2 * N + at, scale, mask=live)
    tl.store(known + 3 * N + at, offset, mask=live)


@triton.jit
def quantize_rows(
    t, rounded, known, N, D, WIDTH, SIDE: tl.constexpr, BITS: tl.constexpr, R: tl.constexpr, BD: tl.constexpr
):
    """R rows of t [N, D] in 8 bits. One program: R rows."""
    at = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    cols = tl.arange(0, BD)
    here = (at < N)[:, None] & (cols < D)[None, :]
    rows = tl.load(t + at[:, None] * D + cols[None, :], mask=here, other=0.0).to(tl.float32)
    write(rounded, known, at, N, WIDTH, cols, rows, SIDE, BITS, R, BD)


@triton.jit
def value(acc, x_scale, x_offset, w_scale, w_offset):
    """x̃·w̃ of Σ q·q [rows, cols] in int32, from scales and offsets of the rows and of the columns."""
    inner = (acc.to(tl.float32) - x_offset[:, None]) * w_scale[None, :] - w_offset[None, :]
    return inner * x_scale[:, None]
