"""The Triton kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.kernels.launch import power2
from monosem.kernels.row_grad import triton as kernels
from monosem.ops import triton_launch
from monosem.ops.triton_launch import blocks, cdiv


def with_windows(
    starts: Tensor,
    entries: Tensor,
    tokens: Tensor,
    coef: Tensor,
    u: Tensor,
    bias: Tensor | None = None,
    totals: bool = False,
) -> tuple[tuple, Tensor, Tensor | None, int]:
    """Operands of kernels over features: the sorted code with both factors, and the sums of whole windows of entries;
    with ``totals`` those of the entries' bias gradients too."""
    nnz, d = len(entries), u.shape[1]
    window = max(128, power2(nnz // 4096))  # so that the sums are at most 4,096 rows, or 128 × smaller than the code
    args = starts.contiguous(), entries.contiguous(), tokens.contiguous(), coef.contiguous()
    sums = torch.empty(max(1, nnz // window), d, dtype=torch.float32, device=u.device)
    of_bias = torch.empty(len(sums), dtype=torch.float32, device=u.device) if totals else None
    kernel = kernels.windows
    options = blocks(kernel, d, u)
    u = u.contiguous()
    grid = nnz // window * cdiv(d, options["BD"])
    triton_launch.run(kernel, grid, *args, bias, u, sums, of_bias, len(starts) - 1, d, window, **options)
    return (*args, u), sums, of_bias, window


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    f, d = len(starts) - 1, u.shape[1]
    code, sums, _, window = with_windows(starts, entries, tokens, coef, u)
    out = torch.empty(f, d, dtype=u.dtype, device=u.device)
    kernel = kernels.row_grad
    options = blocks(kernel, d, u)
    triton_launch.run(kernel, f * cdiv(d, options["BD"]), *code, sums, out, d, window, **options)
    return out


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    out = torch.empty(len(starts) - 1, dtype=coef.dtype, device=coef.device)
    kernel = kernels.feature_sum
    triton_launch.run(
        kernel, len(out), starts.contiguous(), entries.contiguous(), coef.contiguous(), out, **blocks(kernel, 0, coef)
    )
    return out
