"""The Triton kernels, given tensors. No host synchronisation: every size is known from shapes."""

from __future__ import annotations

import torch
from torch import Tensor

import monosem.kernels.launch as launch
from monosem.kernels.launch import power2
from monosem.kernels.row_adam import triton as kernels
from monosem.kernels.row_adam.live import advance_live
from monosem.ops import triton_launch
from monosem.ops.adam import factors
from monosem.ops.row_adam import reference
from monosem.ops.row_grad import triton as row_grad
from monosem.ops.selection import dithered
from monosem.ops.sparse_decode import weighted_sum
from monosem.ops.structs import AdamStep, EncoderCopy, Moments, SortedCode
from monosem.ops.triton_launch import blocks, cdiv

WIDEST = 8192  # a row longer than this does not fit the registers of one program; it is worked on in parts


def row_adam_(w: Tensor, moments: Moments, g: Tensor, step: AdamStep, copy: EncoderCopy | None) -> None:
    moments.check(w)
    rows, d = w.shape
    if not (step.unit or step.lazy or moments.state != "fp32" or copy is not None or step.own is not None):
        kernel = kernels.flat_adam
        options = blocks(kernel, 0, w)
        grid = cdiv(w.numel(), options["B"])
        args = w, moments.m, moments.v, g.contiguous(), w.numel(), step.live, *_factors(step)
        triton_launch.run(kernel, grid, *args, **options)
    elif d > WIDEST:
        reference.row_adam_(w, moments, g.float(), step, copy)
    else:
        kernel = kernels.row_adam
        args = w, *moments, *_copy(copy), step.own, g.contiguous(), d, step.live, *_factors(step), step.step
        options = _row_blocks(kernel, w, copy, moments)
        triton_launch.run(kernel, rows, *args, BLOCK=_block(step, d), UNIT=step.unit, LAZY=step.lazy, **options)


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
    moments.check(w)
    f, d = w.shape
    if d > WIDEST:
        g = row_grad.row_grad(*code, coef.float(), u.float()).mul_(scale)
        return row_adam_(w, moments, g, step, copy)
    read, sums, _, window = row_grad.with_windows(*code, coef, u)
    kernel = kernels.row_grad_adam
    args = w, *moments, *_copy(copy), step.own, *read, sums, d, window, scale, step.live, *_factors(step), step.step
    options = _row_blocks(kernel, w, copy, moments)
    triton_launch.run(kernel, f, *args, BLOCK=_block(step, d), UNIT=step.unit, LAZY=step.lazy, **options)


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
    moments.check(w)
    f, d = w.shape
    if d > WIDEST:
        bias_sums = row_grad.feature_sum(code.starts, code.entries, coef if bias is None else bias)
        weighted = weighted_sum(bias_sums, w)
        row_grad_adam_(w, moments, code, coef, u, 1.0, step, copy)
        return bias_sums, weighted
    bias = None if bias is None else bias.contiguous()
    (*read, u), sums, totals, window = row_grad.with_windows(*code, coef, u, bias, True)
    bias_sums = torch.empty(f, dtype=torch.float32, device=w.device)
    together, kernel = launch.together(f), kernels.encoder_grad_adam
    programs, options = cdiv(f, together), _row_blocks(kernel, w, copy, moments)
    if moments.scales is not None:  # which takes more registers than a second program would leave
        options.pop("maxnreg", None)
    weighted = torch.empty(programs, d, dtype=torch.float32, device=w.device)
    rows = w, *moments, *_copy(copy), *read, bias, u, sums, totals, bias_sums, weighted
    args = *rows, f, d, window, together, step.live, *_factors(step), step.step
    triton_launch.run(kernel, programs, *args, LAZY=step.lazy, **options)
    return bias_sums, weighted.sum(0)


def advance_live_(live: Tensor, lr: Tensor, steps: Tensor, beta1: float, beta2: float) -> None:
    kernel = advance_live
    triton_launch.run(kernel, 1, live, steps, lr, BETA1=beta1, BETA2=beta2, **blocks(kernel, 0, live))


def _factors(step: AdamStep) -> tuple[float, ...]:
    return factors(step.lr, step.beta1, step.beta2, step.eps, step.step)


def _block(step: AdamStep, d: int) -> int:
    """Columns of a row per number of ``own``."""
    return 1 if step.own is None else d // step.own.shape[1]


def _row_blocks(kernel, w: Tensor, copy: EncoderCopy | None, moments: Moments) -> dict[str, int]:
    """Block sizes of rows of w; a copy in int8 has columns of its own beside them, all in one block. A thread holds 8
    numbers of a row while they are rotated, 16 where moments in 8 bits need more registers than half as many leave."""
    options = blocks(kernel, w.shape[1], w)
    if copy is None or copy.rows.dtype != torch.int8:
        return {**options, "BITS": 0}
    width = copy.rows.shape[1]
    bd = max(options["BD"], power2(width))
    warps = max(options["num_warps"], min(16, bd // 32 // (8 if moments.scales is None else 16)))
    return {**options, "BITS": dithered.rotation_bits(width), "BD": bd, "num_warps": warps}


def _copy(copy: EncoderCopy | None) -> tuple[Tensor | None, Tensor | None, int]:
    return (None, None, 0) if copy is None else (copy.rows, copy.norms, copy.rows.stride(0))
