"""The CUDA kernels, given tensors."""

from __future__ import annotations

from torch import Tensor

from monosem.ops import cuda_launch
from monosem.ops.layout import code_without_waiting, fp32


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    (i, o, n), d = code_without_waiting(indices, offsets, len(w)), w.shape[1]
    out = cuda_launch.empty(w, n, d)
    cuda_launch.launch(
        "sparse_decode",
        w,
        values=fp32(values),
        indices=i,
        offsets=o,
        w=w.contiguous(),
        bias=fp32(b),
        out=out,
        threads=cuda_launch.tuned("sparse_decode", d, w),
    )
    return out.to(w.dtype)


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    i, o, _ = code_without_waiting(indices, offsets, len(w))
    out = cuda_launch.empty(w, len(i))
    cuda_launch.launch("gather_dot", w, indices=i, offsets=o, w=w.contiguous(), g=fp32(g), scale=1.0, out=out)
    return out.to(g.dtype)
