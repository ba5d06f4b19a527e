"""The CUDA kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.kernels import launch
from monosem.ops import cuda_launch
from monosem.ops.adam import STATES
from monosem.ops.layout import fp32
from monosem.ops.structs import AdamStep, EncoderCopy, Moments, SortedCode


def _in_8_bits(moments: Moments, copy: EncoderCopy | None) -> bool:
    """Whether a row has a scale, which is known when all of the row is: Triton's programs hold a whole row."""
    return moments.scales is not None or (copy is not None and copy.rows.dtype == torch.int8)


def _moments(w: Tensor, moments: Moments) -> tuple[Tensor, Tensor, int]:
    moments.check(w)
    return moments.m, moments.v, STATES.index(moments.state)


def _step(step: AdamStep) -> tuple[float, float, float, float, int]:
    return step.lr, step.beta1, step.beta2, step.eps, step.step


def row_adam_(w: Tensor, moments: Moments, g: Tensor, step: AdamStep, copy: EncoderCopy | None) -> None:
    if _in_8_bits(moments, copy):
        from monosem.ops.row_adam import triton

        return triton.row_adam_(w, moments, g, step, copy)
    state, g32 = _moments(w, moments), fp32(g)
    rows = w, *state, *cuda_launch.copy_arguments(copy), g32, *w.shape
    threads = cuda_launch.tuned("row_adam", w.shape[1], w)
    cuda_launch.launch("row_adam", w, *rows, *_step(step), step.unit, step.lazy, step.live, threads)


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
    state, c, u32, (f, d) = _moments(w, moments), fp32(coef), fp32(u), w.shape
    bits, parts = cuda_launch.pieces(len(code.entries), u32)
    rows = w, *state, *cuda_launch.copy_arguments(copy)
    gradient = *code, f, len(code.entries), c, u32, d, bits, parts, scale
    threads = cuda_launch.tuned("row_grad_adam", d, w)
    cuda_launch.launch("row_grad_adam", w, *rows, *gradient, *_step(step), step.unit, step.lazy, step.live, threads)


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
    state, c, u32, (f, d) = _moments(w, moments), fp32(coef), fp32(u), w.shape
    own = c if bias is None else fp32(bias)
    bits, parts = cuda_launch.pieces(len(code.entries), u32)
    totals = None if parts is None else cuda_launch.empty(u, len(parts), dtype=torch.float64)
    together = launch.together(f)
    sums, weighted = cuda_launch.empty(w, f), cuda_launch.empty(w, -(-f // together), d)
    rows = w, *state, *cuda_launch.copy_arguments(copy)
    gradient = *code, f, len(code.entries), c, own, u32, d, bits, parts, totals
    out = sums, weighted, together
    threads = cuda_launch.tuned("encoder_grad_adam", d, w)
    cuda_launch.launch("encoder_grad_adam", w, *rows, *gradient, *out, *_step(step), step.lazy, step.live, threads)
    return sums, weighted.sum(0)
