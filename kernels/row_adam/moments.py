"""Adam's moments of a row in 4, 2 or 1 bytes; with fewer bits than fp32 they are rounded stochastically.

The noise of a rounding is a hash of step, row and column, the same as on a CPU (``csrc/cpu/row_adam-inl.h``).
"""

import triton
import triton.language as tl


@triton.jit
def mixed(h):
    """A well-mixed number for each uint32."""
    h = (h ^ (h >> 16)) * 0x85EBCA6B
    h = (h ^ (h >> 13)) * 0xC2B2AE35
    return h ^ (h >> 16)


@triton.jit
def row_noise(step, f, cols):
    """32 random bits for each column: the low half rounds m, the high half v."""
    # Products of numbers below 2³¹ fit in 64 bits; the low 32 bits are used.
    turned = (step.to(tl.int64) * 0x9E3779B1).to(tl.uint32)
    row = (f.to(tl.int64) + 0x7F4A7C15).to(tl.uint32)
    return mixed(mixed(turned ^ mixed(row)) + cols.to(tl.uint32))


@triton.jit
def to_bf16(value, noise):
    bits = value.to(tl.uint32, bitcast=True) + (noise & 0xFFFF)
    return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def to_code(square, noise, most):
    """The code whose square this is, rounded up with the probability for which the mean of the square is right."""
    low = tl.floor(tl.sqrt_rn(square))
    up = tl.div_rn(square - low * low, 2.0 * low + 1.0) * 65536.0 > noise.to(tl.float32)
    return tl.minimum(low + up.to(tl.float32), most)


@triton.jit
def read_row(m, v, scales, f, F, cols, D):
    """Moments of row f of F in fp32: (m, v). In 8 bits m = ±(q/127)² · M and √v = (q/255)² · S."""
    at, inside = f * D + cols, cols < D
    a = tl.load(m + at, mask=inside, other=0).to(tl.float32)
    b = tl.load(v + at, mask=inside, other=0).to(tl.float32)
    if scales is not None:
        a = tl.div_rn(a * tl.abs(a), 16129.0) * tl.load(scales + f)
        b = tl.div_rn(b * b, 65025.0) * tl.load(scales + F + f)
        b = b * b
    return a, b


@triton.jit
def write_row(m, v, scales, f, F, cols, D, m_new, v_new, step):
    """Store the moments of row f. In 8 bits, a non-zero v never gets the code 0: it is the denominator of an m that may
    have been rounded up."""
    at, inside = f * D + cols, cols < D
    if m.dtype.element_ty == tl.float32:
        tl.store(m + at, m_new, mask=inside)
        tl.store(v + at, v_new, mask=inside)
    else:
        noise = row_noise(step, f, cols)
        if scales is None:
            tl.store(m + at, to_bf16(m_new, noise), mask=inside)
            tl.store(v + at, to_bf16(v_new, noise >> 16), mask=inside)
        else:
            most_m = tl.max(tl.where(inside, tl.abs(m_new), 0.0))
            most_v = tl.sqrt_rn(tl.max(tl.where(inside, v_new, 0.0)))
            by_m, by_v = tl.where(most_m > 0.0, most_m, 1.0), tl.where(most_v > 0.0, most_v, 1.0)
            q = to_code(tl.div_rn(tl.abs(m_new), by_m) * 16129.0, noise & 0xFFFF, 127.0)
            r = to_code(tl.div_rn(tl.sqrt_rn(v_new), by_v) * 65025.0, noise >> 16, 255.0)
            tl.store(m + at, tl.where(m_new < 0.0, -q, q).to(tl.int8), mask=inside)
            tl.store(v + at, tl.where(v_new > 0.0, tl.maximum(r, 1.0), 0.0).to(tl.uint8), mask=inside)
            tl.store(scales + f, most_m)
            tl.store(scales + F + f, most_v)
