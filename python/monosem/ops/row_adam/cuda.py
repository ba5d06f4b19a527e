"""The CUDA kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

import monosem.kernels.launch as launch
from monosem.ops import cuda_launch
from monosem.ops.layout import fp32
from monosem.ops.structs import AdamStep, EncoderCopy, Moments, SortedCode


def _in_8_bits(moments: Moments, copy: EncoderCopy | None) -> bool:
    """Whether a row has a scale, which is known when all of the row is: Triton's programs hold a whole row."""
    return moments.scales is not None or (copy is not None and copy.rows.dtype == torch.int8)


def row_adam_(w: Tensor, moments: Moments, g: Tensor, step: AdamStep, copy: EncoderCopy | None) -> None:
    if _in_8_bits(moments, copy):
        from monosem.ops.row_adam import triton

        return triton.row_adam_(w, moments, g, step, copy)
    moments.check(w)
    threads = cuda_launch.tuned("row_adam", w.shape[1], w)
    cuda_launch.launch("row_adam", w, w=w, moments=moments, copy=copy, g=fp32(g), step=step, threads=threads)


def row_grad_adam_(
    w: Tensor,
    moments: Moments,
    code: SortedCode,
    coef: Tensor,
    u: Tensor,
    scale: float,
    step: AdamStep,
    copy: EncoderCopy | None,
) -> None:
    if _in_8_bits(moments, copy):
        from monosem.ops.row_adam import triton

        return triton.row_grad_adam_(w, moments, code, coef, u, scale, step, copy)
    moments.check(w)
    u32 = fp32(u)
    bits, parts = cuda_launch.pieces(len(code.entries), u32)
    cuda_launch.launch(
        "row_grad_adam",
        w,
        w=w,
        moments=moments,
        copy=copy,
        code=code.contiguous(),
        coef=fp32(coef),
        u=u32,
        cut_bits=bits,
        pieces=parts,
        scale=scale,
        step=step,
        threads=cuda_launch.tuned("row_grad_adam", w.shape[1], w),
    )


def encoder_grad_adam_(
    w: Tensor,
    moments: Moments,
    code: SortedCode,
    coef: Tensor,
    u: Tensor,
    bias: Tensor | None,
    step: AdamStep,
    copy: EncoderCopy | None,
) -> tuple[Tensor, Tensor]:
    if _in_8_bits(moments, copy):
        from monosem.ops.row_adam import triton

        return triton.encoder_grad_adam_(w, moments, code, coef, u, bias, step, copy)
    moments.check(w)
    c, u32, (f, d) = fp32(coef), fp32(u), w.shape
    bits, parts = cuda_launch.pieces(len(code.entries), u32)
    totals = None if parts is None else cuda_launch.empty(u, len(parts), dtype=torch.float64)
    together = launch.together(f)
    sums, weighted = cuda_launch.empty(w, f), cuda_launch.empty(w, -(-f // together), d)
    cuda_launch.launch(
        "encoder_grad_adam",
        w,
        w=w,
        moments=moments,
        copy=copy,
        code=code.contiguous(),
        coef=c,
        bias=c if bias is None else fp32(bias),
        u=u32,
        cut_bits=bits,
        pieces=parts,
        totals=totals,
        sums=sums,
        weighted=weighted,
        together=together,
        step=step,
        threads=cuda_launch.tuned("encoder_grad_adam", d, w),
    )
    return sums, weighted.sum(0)
