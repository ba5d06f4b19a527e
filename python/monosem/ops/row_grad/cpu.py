"""The native kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.backend import native as _C
from monosem.ops.layout import fp32, threads


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    f = len(starts) - 1
    out = torch.empty(f, u.shape[1], dtype=torch.float32, device="cpu")
    _C.row_grad(
        starts.contiguous(), entries.contiguous(), tokens.contiguous(), f, fp32(coef), fp32(u), *u.shape, out, threads()
    )
    return out.to(u.dtype)


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    out = torch.empty(len(starts) - 1, dtype=torch.float32, device="cpu")
    _C.feature_sum(starts.contiguous(), entries.contiguous(), len(out), fp32(coef), out, threads())
    return out.to(coef.dtype)
