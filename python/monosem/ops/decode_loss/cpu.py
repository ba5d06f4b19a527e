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
    shapes = (n,), (n, d), (len(values),)
    loss, residual, slopes = (torch.empty(shape, dtype=torch.float32, device="cpu") for shape in shapes)
    _C.decode_loss(
        values=fp32(values),
        indices=i,
        offsets=o,
        w=w.contiguous(),
        bias=fp32(b),
        x=fp32(x),
        loss=loss,
        residual=residual,
        slopes=slopes,
        threads=threads(),
    )
    return loss.to(x.dtype), residual.to(x.dtype), slopes.to(x.dtype)
