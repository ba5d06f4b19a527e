"""The CUDA kernels, given tensors."""

from __future__ import annotations

from torch import Tensor

from monosem.ops import cuda_launch
from monosem.ops.layout import fp32
from monosem.ops.structs import SortedCode


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    u32, d = fp32(u), u.shape[1]
    out = cuda_launch.empty(u, len(starts) - 1, d)
    bits, parts = cuda_launch.pieces(len(entries), u32)
    cuda_launch.launch(
        "row_grad",
        u,
        code=SortedCode(starts, entries, tokens).contiguous(),
        coef=fp32(coef),
        u=u32,
        cut_bits=bits,
        pieces=parts,
        out=out,
        threads=cuda_launch.tuned("row_grad", d, u),
    )
    return out.to(u.dtype)


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    out = cuda_launch.empty(coef, len(starts) - 1)
    cuda_launch.launch(
        "feature_sum", coef, starts=starts.contiguous(), entries=entries.contiguous(), coef=fp32(coef), out=out
    )
    return out.to(coef.dtype)
