"""The CUDA kernel, given tensors."""

from __future__ import annotations

from torch import Tensor

from monosem.ops import cuda_launch
from monosem.ops.layout import code_without_waiting, fp32


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    v, (i, o, n), (rows, dtype) = fp32(values), code_without_waiting(indices, offsets, len(w)), cuda_launch.weights(w)
    bias, target, d = fp32(b), fp32(x), w.shape[1]
    loss, residual, slopes = cuda_launch.empty(w, n), cuda_launch.empty(w, n, d), cuda_launch.empty(w, len(v))
    code, out = (v, i, o, n, len(v)), (loss, residual, slopes)
    threads = cuda_launch.tuned("decode_loss", d, w)
    cuda_launch.launch("decode_loss", w, *code, rows, dtype, d, bias, target, *out, threads)
    return loss.to(x.dtype), residual.to(x.dtype), slopes.to(x.dtype)
