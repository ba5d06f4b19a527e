"""Sums over the active rows of a token, and products with them. 64-bit addresses, fp32 sums in the order of entries."""

import triton
import triton.language as tl
from monosem.kernels.common.long_sum import row_dots


@triton.jit
def decode_cols(values, indices, w, first, last, cols, D, start, J: tl.constexpr, BD: tl.constexpr):
    """start + Σ_j values_j · w[indices_j, cols] over the entries first:last, J rows in flight."""
    acc = start
    for s in range(first, last, J):
        j = s + tl.arange(0, J)
        v = tl.load(values + j, mask=j < last, other=0.0).to(tl.float32)
        f = tl.load(indices + j, mask=j < last, other=0).to(tl.int64)
        at = w + f[:, None] * D + cols[None, :]
        rows = tl.load(at, mask=(j < last)[:, None] & (cols < D)[None, :], other=0.0).to(tl.float32)
        acc += tl.sum(v[:, None] * rows, axis=0)
    return acc


@triton.jit
def sparse_decode(values, indices, offsets, w, b, out, D, J: tl.constexpr, BD: tl.constexpr):
    """out[n] = b + Σ_j values_j · w[indices_j]. One program: one token, BD columns."""
    parts = tl.cdiv(D, BD)
    n = (tl.program_id(0) // parts).to(tl.int64)
    cols = (tl.program_id(0) % parts) * BD + tl.arange(0, BD)
    bias = tl.load(b + cols, mask=cols < D, other=0.0).to(tl.float32)
    acc = decode_cols(values, indices, w, tl.load(offsets + n), tl.load(offsets + n + 1), cols, D, bias, J, BD)
    tl.store(out + n * D + cols, acc, mask=cols < D)


@triton.jit
def gather_dot(g, indices, offsets, w, out, D, scale, J: tl.constexpr, BD: tl.constexpr):
    """out[j] = scale · g[token of j] · w[indices_j]. One program: one token."""
    n = tl.program_id(0).to(tl.int64)
    last = tl.load(offsets + n + 1)
    for s in range(tl.load(offsets + n), last, J):
        j = s + tl.arange(0, J)
        f = tl.load(indices + j, mask=j < last, other=0).to(tl.int64)
        dots = row_dots(g + n * D, w + f[:, None] * D, j < last, D, J, BD)
        tl.store(out + j, scale * dots, mask=j < last)
