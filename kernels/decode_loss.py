"""Decode, residual, loss and the gradient of each value while the token's residual is in registers."""

import triton
import triton.language as tl

from monosem.kernels.sparse_decode import decode_cols


@triton.jit
def decode_loss(
    values, indices, offsets, w, b, x, loss, residual, slopes, D, per_d,
    J: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """r = b + Σ_j values_j·w[indices_j] − x; loss = Σ r²·per_d; slopes_j = 2·per_d·r·w[indices_j]; per_d = 1/D ≤ BD.

    One program: one token. The second walk over the token's rows finds them in the cache.
    """
    n = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BD)
    first, last = tl.load(offsets + n), tl.load(offsets + n + 1)
    bias = tl.load(b + cols, mask=cols < D, other=0.0).to(tl.float32)
    r = decode_cols(values, indices, w, first, last, cols, D, bias, J, BD)
    r -= tl.load(x + n * D + cols, mask=cols < D, other=0.0).to(tl.float32)
    tl.store(residual + n * D + cols, r, mask=cols < D)
    tl.store(loss + n, tl.sum(r * r) * per_d)
    for s in range(first, last, J):
        j = s + tl.arange(0, J)
        f = tl.load(indices + j, mask=j < last, other=0).to(tl.int64)
        at = w + f[:, None] * D + cols[None, :]
        rows = tl.load(at, mask=(j < last)[:, None] & (cols < D)[None, :], other=0.0).to(tl.float32)
        tl.store(slopes + j, 2.0 * per_d * tl.sum(rows * r[None, :], axis=1), mask=j < last)
