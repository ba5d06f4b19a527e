"""The arguments of these operations one by one, as a schema of PyTorch has them, put into structs for the kernels.

An option of Adam more is a field of ``AdamStep``, a word in the schema (``__init__.py``), and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

from torch import Tensor

from monosem.ops.structs import AdamStep, EncoderCopy, Moments, SortedCode, checked_own


class _Options(NamedTuple):
    lazy: bool = False
    live: Tensor | None = None
    scales: Tensor | None = None
    copy: Tensor | None = None
    norms: Tensor | None = None
    own: Tensor | None = None

    def step(self, w: Tensor, lr: float, beta1: float, beta2: float, eps: float, step: int, unit: bool) -> AdamStep:
        return AdamStep(lr, beta1, beta2, eps, step, unit, self.lazy, self.live, checked_own(self.own, w))

    def encoder_copy(self) -> EncoderCopy | None:
        return EncoderCopy.of(self.copy, self.norms)


def dense(kernel: Callable) -> Callable:
    """``row_adam_``'s arguments for ``kernel(w, moments, g, step, copy)``."""

    @wraps(kernel)
    def flat(w, m, v, g, lr, beta1, beta2, eps, step, unit, *given, **named):
        options = _Options(*given, **named)
        now = options.step(w, lr, beta1, beta2, eps, step, unit)
        return kernel(w, Moments(m, v, options.scales), g, now, options.encoder_copy())

    return flat


def sparse(kernel: Callable) -> Callable:
    """``row_grad_adam_``'s arguments for ``kernel(w, moments, code, coef, u, scale, step, copy)``."""

    @wraps(kernel)
    def flat(w, m, v, starts, entries, tokens, coef, u, scale, lr, beta1, beta2, eps, step, unit, *given, **named):
        options = _Options(*given, **named)
        now, code = options.step(w, lr, beta1, beta2, eps, step, unit), SortedCode(starts, entries, tokens)
        return kernel(w, Moments(m, v, options.scales), code, coef, u, scale, now, options.encoder_copy())

    return flat


def encoder(kernel: Callable) -> Callable:
    """``encoder_grad_adam_``'s arguments for ``kernel(w, moments, code, coef, u, bias, step, copy)``."""

    @wraps(kernel)
    def flat(
        w, m, v, starts, entries, tokens, coef, u, bias, lr, beta1, beta2, eps, step,
        lazy=False, live=None, scales=None, copy=None, norms=None,
    ):  # fmt: skip
        moments, now = Moments(m, v, scales), AdamStep(lr, beta1, beta2, eps, step, False, lazy, live)
        code = SortedCode(starts, entries, tokens)
        return kernel(w, moments, code, coef, u, bias, now, EncoderCopy.of(copy, norms))

    return flat
