"""The CUDA kernels, given tensors."""

from __future__ import annotations

from torch import Tensor

from monosem.ops import cuda_launch
from monosem.ops.layout import code_without_waiting, fp32


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    v, (i, o, n), (rows, dtype) = fp32(values), code_without_waiting(indices, offsets, len(w)), cuda_launch.weights(w)
    bias, d = fp32(b), w.shape[1]
    out = cuda_launch.empty(w, n, d)
    threads = cuda_launch.tuned("sparse_decode", d, w)
    cuda_launch.launch("sparse_decode", w, v, i, o, n, rows, dtype, d, bias, out, threads)
    return out.to(w.dtype)


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    g32, (i, o, n), (rows, dtype) = fp32(g), code_without_waiting(indices, offsets, len(w)), cuda_launch.weights(w)
    out = cuda_launch.empty(w, len(i))
    cuda_launch.launch("gather_dot", w, i, o, n, rows, dtype, w.shape[1], g32, 1.0, out)
    return out.to(g.dtype)
