"""The Triton kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.kernels.csc import triton as kernels
from monosem.ops import triton_launch
from monosem.ops.layout import code_without_waiting
from monosem.ops.triton_launch import blocks, cdiv


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    i, o, n = code_without_waiting(indices, offsets, d_sae)
    nnz, device = len(i), i.device
    counts = torch.zeros(d_sae, dtype=torch.int32, device=device)
    triton_launch.run(kernels.count, n, i, o, counts, **blocks(kernels.count, 0, i))
    starts = torch.zeros(d_sae + 1, dtype=torch.int64, device=device)
    torch.cumsum(counts, 0, out=starts[1:])
    loose, settled = (
        (torch.empty(nnz, dtype=torch.int64, device=device), torch.empty(nnz, dtype=torch.int32, device=device))
        for _ in range(2)
    )
    triton_launch.run(kernels.scatter, n, i, o, starts, counts.zero_(), *loose, **blocks(kernels.scatter, 0, i))
    options = blocks(kernels.settle, 0, i)
    triton_launch.run(kernels.settle, cdiv(nnz, options["B"]), starts, i, *loose, *settled, nnz, d_sae, **options)
    return starts, *settled
