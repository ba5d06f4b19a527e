"""The native kernel, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.backend import native as _C
from monosem.ops.layout import checked_code, fp32, threads


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (i, o, n), d = checked_code(indices, offsets, len(w)), w.shape[1]
    loss, residual, slopes = (
        torch.empty(n, dtype=torch.float32, device="cpu"),
        torch.empty(n, d, dtype=torch.float32, device="cpu"),
        torch.empty(len(values), dtype=torch.float32, device="cpu"),
    )
    _C.decode_loss(
        fp32(values), i, o, n, w.contiguous(), *w.shape, fp32(b), fp32(x), loss, residual, slopes, threads()
    )  # fmt: skip
    return loss.to(x.dtype), residual.to(x.dtype), slopes.to(x.dtype)
