"""The CUDA kernel, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import cuda_launch
from monosem.ops.layout import code_without_waiting
from monosem.ops.structs import SortedCode


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    i, o, _ = code_without_waiting(indices, offsets, d_sae)
    starts, entries = (cuda_launch.empty(i, n, dtype=torch.int64) for n in (d_sae + 1, len(i)))
    tokens = cuda_launch.empty(i, len(i), dtype=torch.int32)
    workspace = cuda_launch.empty(i, cuda_launch.kernels.csc_workspace(len(i), d_sae), dtype=torch.int32)
    out = SortedCode(starts, entries, tokens)
    cuda_launch.launch("csc", i, indices=i, offsets=o, features=d_sae, out=out, workspace=workspace)
    return starts, entries, tokens
