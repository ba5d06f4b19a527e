"""The CUDA kernel, given tensors."""

from __future__ import annotations

from torch import Tensor

from monosem.ops import cuda_launch
from monosem.ops.layout import code_without_waiting, fp32


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (i, o, n), d = code_without_waiting(indices, offsets, len(w)), w.shape[1]
    loss, residual, slopes = cuda_launch.empty(w, n), cuda_launch.empty(w, n, d), cuda_launch.empty(w, len(i))
    cuda_launch.launch(
        "decode_loss",
        w,
        values=fp32(values),
        indices=i,
        offsets=o,
        w=w.contiguous(),
        bias=fp32(b),
        x=fp32(x),
        loss=loss,
        residual=residual,
        slopes=slopes,
        threads=cuda_launch.tuned("decode_loss", d, w),
    )
    return loss.to(x.dtype), residual.to(x.dtype), slopes.to(x.dtype)
