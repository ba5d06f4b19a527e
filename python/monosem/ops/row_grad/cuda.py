"""The CUDA kernels, given tensors."""

from __future__ import annotations

from torch import Tensor

from monosem.ops import cuda_launch
from monosem.ops.layout import fp32


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    c, u32 = fp32(coef), fp32(u)
    f, d = len(starts) - 1, u.shape[1]
    out = cuda_launch.empty(u, f, d)
    bits, parts = cuda_launch.pieces(len(entries), u32)
    code = starts, entries, tokens, f, len(entries)
    threads = cuda_launch.tuned("row_grad", d, u)
    cuda_launch.launch("row_grad", u, *code, c, u32, d, bits, parts, out, threads)
    return out.to(u.dtype)


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    c = fp32(coef)
    out = cuda_launch.empty(coef, len(starts) - 1)
    cuda_launch.launch("feature_sum", coef, starts, entries, len(out), c, out)
    return out.to(coef.dtype)
