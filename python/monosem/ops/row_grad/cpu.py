"""The native kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.backend import native as _C
from monosem.ops.layout import fp32, threads
from monosem.ops.structs import SortedCode


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    out = torch.empty(len(starts) - 1, u.shape[1], dtype=torch.float32, device="cpu")
    code = SortedCode(starts, entries, tokens).contiguous()
    _C.row_grad(code=code, coef=fp32(coef), u=fp32(u), out=out, threads=threads())
    return out.to(u.dtype)


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    out = torch.empty(len(starts) - 1, dtype=torch.float32, device="cpu")
    _C.feature_sum(
        starts=starts.contiguous(), entries=entries.contiguous(), coef=fp32(coef), out=out, threads=threads()
    )
    return out.to(coef.dtype)
