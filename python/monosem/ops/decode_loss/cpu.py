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
    code, out = (fp32(values), i, o, n), (loss, residual, slopes)
    _C.decode_loss(*code, w.contiguous(), *w.shape, fp32(b), fp32(x), *out, threads())
    return loss.to(x.dtype), residual.to(x.dtype), slopes.to(x.dtype)
