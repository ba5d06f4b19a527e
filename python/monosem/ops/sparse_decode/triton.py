"""The Triton kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.kernels.sparse_decode import triton as kernels
from monosem.ops import triton_launch
from monosem.ops.layout import code_without_waiting
from monosem.ops.triton_launch import blocks, cdiv


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    (i, o, n), d = code_without_waiting(indices, offsets, len(w)), w.shape[1]
    out = torch.empty(n, d, dtype=w.dtype, device=w.device)
    kernel = kernels.sparse_decode
    options = blocks(kernel, d, w)
    args = values.contiguous(), i, o, w.contiguous(), b.contiguous(), out, d
    triton_launch.run(kernel, n * cdiv(d, options["BD"]), *args, **options)
    return out


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, scale: float = 1.0) -> Tensor:
    (i, o, n), d = code_without_waiting(indices, offsets, len(w)), w.shape[1]
    out = torch.empty(len(i), dtype=g.dtype, device=w.device)
    kernel = kernels.gather_dot
    triton_launch.run(kernel, n, g.contiguous(), i, o, w.contiguous(), out, d, scale, **blocks(kernel, d, w))
    return out
