"""The Triton kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.kernels.resample import triton as kernels
from monosem.ops import triton_launch
from monosem.ops.structs import in_place
from monosem.ops.triton_launch import blocks


def resample_(
    w_enc: Tensor,
    w_dec: Tensor,
    b_enc: Tensor,
    moments: list[Tensor],
    features: Tensor,
    inputs: Tensor,
    alive: Tensor,
    factor: float,
) -> None:
    in_place(w_enc=w_enc, w_dec=w_dec, b_enc=b_enc)
    f, d = w_enc.shape
    norms = torch.empty(f, dtype=torch.float32, device=w_enc.device)
    triton_launch.run(kernels.row_norm, f, w_enc, norms, d, **blocks(kernels.row_norm, d, w_enc))
    living = alive.sum()
    mean = torch.where(alive, norms, 0).sum(dtype=torch.float64) / living
    norm = (torch.where(living > 0, mean, 1.0) * factor).float()
    chosen, kernel = features.long().contiguous(), kernels.resample
    triton_launch.run(
        kernel, len(chosen), w_enc, w_dec, b_enc, chosen, inputs.contiguous(), norm, d, **blocks(kernel, d, w_enc)
    )
    for moment in moments:
        moment[chosen] = 0.0
