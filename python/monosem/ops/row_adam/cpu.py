"""The native kernels, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.adam import write_copy_
from monosem.ops.backend import native as _C
from monosem.ops.layout import fp32, threads
from monosem.ops.row_adam import reference
from monosem.ops.row_grad import cpu as row_grad
from monosem.ops.structs import AdamStep, EncoderCopy, Moments, SortedCode


def row_adam_(w: Tensor, moments: Moments, g: Tensor, step: AdamStep, copy: EncoderCopy | None) -> None:
    moments.check(w)
    if step.live is not None:  # for graphs, of which a CPU has none
        return reference.row_adam_(w, moments, fp32(g), step, copy)
    _C.row_adam(w=w, moments=moments, g=fp32(g), step=step, threads=threads())
    write_copy_(w, copy)


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
    if step.live is not None:
        return reference.row_adam_(w, moments, row_grad.row_grad(*code, coef, u).float() * scale, step, copy)
    _sweep_(w, moments, code, coef, u, scale, step)
    write_copy_(w, copy)


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
    bias = coef if bias is None else bias
    if step.live is not None:
        return reference.encoder_grad_adam_(w, moments, code, fp32(coef), fp32(u), fp32(bias), step, copy)
    sums, weighted = (torch.empty(n, dtype=torch.float32, device="cpu") for n in w.shape)
    _sweep_(w, moments, code, coef, u, 1.0, step, bias=fp32(bias), sums=sums, weighted=weighted)
    write_copy_(w, copy)
    return sums, weighted


def _sweep_(
    w: Tensor,
    moments: Moments,
    code: SortedCode,
    coef: Tensor,
    u: Tensor,
    scale: float,
    step: AdamStep,
    bias: Tensor | None = None,
    sums: Tensor | None = None,
    weighted: Tensor | None = None,
) -> None:
    """Gradient rows and Adam; with ``bias``, the sums of its entries by feature, and those times the rows before."""
    if u.shape[1:] != w.shape[1:] or len(code.starts) != len(w) + 1:
        raise ValueError(
            f"u, starts: got {list(u.shape)} and {list(code.starts.shape)}; wanted [tokens, {w.shape[1]}] and "
            f"[{len(w) + 1}], which fit w"
        )
    _C.row_grad_adam(
        w=w,
        moments=moments,
        code=code.contiguous(),
        coef=fp32(coef),
        u=fp32(u),
        scale=scale,
        step=step,
        bias=bias,
        sums=sums,
        weighted=weighted,
        threads=threads(),
    )
