"""The native kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.backend import native as _C
from monosem.ops.layout import checked_code, fp32, threads


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    i, o, n = checked_code(indices, offsets, len(w))
    out = torch.empty(n, w.shape[1], dtype=torch.float32, device="cpu")
    _C.sparse_decode(
        values=fp32(values), indices=i, offsets=o, w=w.contiguous(), bias=fp32(b), out=out, threads=threads()
    )
    return out.to(w.dtype)


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    i, o, _ = checked_code(indices, offsets, len(w))
    out = torch.empty(len(i), dtype=torch.float32, device="cpu")
    _C.gather_dot(indices=i, offsets=o, w=w.contiguous(), g=fp32(g), scale=1.0, out=out, threads=threads())
    return out.to(g.dtype)
