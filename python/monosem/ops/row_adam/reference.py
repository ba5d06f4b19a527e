"""The definitions in plain PyTorch, which every kernel of these operations must match."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import adam
from monosem.ops.precision import as_given
from monosem.ops.row_grad.reference import feature_sum, row_grad
from monosem.ops.structs import AdamStep, EncoderCopy, Moments, SortedCode


def _of_blocks(own: Tensor, w: Tensor) -> Tensor:
    """``own`` [F, B] for each column of w [F, D]: B blocks of equal width."""
    return own.repeat_interleave(w.shape[1] // own.shape[1], dim=1)


def row_adam_(w: Tensor, moments: Moments, g: Tensor, step: AdamStep, copy: EncoderCopy | None) -> None:
    """One step of torch.optim.Adam on rows, in place; ``unit``: parallel part of g removed before, rows unit after."""
    lr, beta1, beta2, eps, number, unit, lazy, live, own = step
    numbers = adam.factors(lr, beta1, beta2, eps, number), number
    (add1, keep2, add2, root2, step_size, eps), number = numbers if live is None else adam.read_live(live)
    touched = (g != 0).any(-1, keepdim=True) | (not lazy)
    if own is not None:
        touched, g = touched | (own != 0).any(-1, keepdim=True), g + _of_blocks(own, w) * w
    g = g - (g * w).sum(-1, keepdim=True) * w if unit else g
    m32, v32 = adam.read_moments(moments)
    m32, v32 = m32 + add1 * (g - m32), keep2 * v32 + add2 * g * g
    new = w - step_size * (m32 / (v32.sqrt() / root2 + eps))
    new = new / new.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny) if unit else new
    adam.write_moments_(moments, m32, v32, touched, number)
    adam.write_copy_(w.copy_(torch.where(touched, new, w)), copy)


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
    """``row_adam_`` with the gradient ``scale · row_grad(...)``."""
    row_adam_(w, moments, row_grad(*code, coef, u) * scale, step, copy)


@as_given
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
    """The same without ``unit``; returns the gradient of each feature's bias, and Σ_f of it times w[f] as it was."""
    sums = feature_sum(code.starts, code.entries, coef if bias is None else bias)
    weighted = sums @ w
    row_adam_(w, moments, row_grad(*code, coef, u), step, copy)
    return sums, weighted
