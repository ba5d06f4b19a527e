"""The CUDA kernel, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import cuda_launch
from monosem.ops.layout import fp32
from monosem.ops.structs import in_place


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
    chosen, x, living = features.long().contiguous(), fp32(inputs), alive.to(torch.uint8).contiguous()
    workspace = cuda_launch.empty(w_enc, cuda_launch.kernels.resample_workspace(), dtype=torch.float64)
    cuda_launch.launch(
        "resample",
        w_enc,
        w_enc=w_enc,
        w_dec=w_dec,
        b_enc=b_enc,
        features=chosen,
        inputs=x,
        alive=living,
        factor=factor,
        workspace=workspace,
    )
    for moment in moments:
        moment.index_fill_(0, chosen, 0.0)
