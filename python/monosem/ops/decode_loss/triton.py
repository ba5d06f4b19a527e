"""The Triton kernel, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.kernels.decode_loss import triton as kernels
from monosem.kernels.launch import power2
from monosem.ops import triton_launch
from monosem.ops.layout import code_without_waiting
from monosem.ops.triton_launch import blocks, cdiv

MOST_HELD = 128  # rows of a token in registers: slices of them are 128 bytes wide then, a line of the cache
WIDEST_SLICE = 128  # columns: one warp's load of 16 bytes per thread, so that products need no other warp


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (i, o, n), d = code_without_waiting(indices, offsets, len(w)), w.shape[1]
    loss = torch.empty(n, dtype=x.dtype, device=x.device)
    residual = torch.empty(n, d, dtype=x.dtype, device=x.device)
    slopes, lost = (torch.empty(len(i), dtype=torch.float32, device=x.device) for _ in range(2))
    kernel = kernels.decode_loss
    options = blocks(kernel, d, w)
    # A program holds HELD numbers: as many rows as tokens have entries (TopK: all), in slices as wide as leaves room.
    rows = min(MOST_HELD, max(16, power2(cdiv(len(i), max(1, n)))))
    width = max(16, min(power2(d), WIDEST_SLICE, options.pop("HELD") // rows))
    inputs = values.contiguous(), i, o, w.contiguous(), b.contiguous(), x.contiguous()
    out = loss, residual, slopes, lost
    triton_launch.run(kernel, n, *inputs, *out, d, 1 / d, J=rows, BD=width, **options)
    return loss, residual, slopes.to(x.dtype)
