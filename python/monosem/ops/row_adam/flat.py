"""The arguments of these operations one by one, as a schema of PyTorch has them, put into structs for the kernels.

An option of Adam more is a field of ``AdamStep``, a word in the schema (``__init__.py``), and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from torch import Tensor

from monosem.ops.structs import AdamStep, EncoderCopy, Moments, SortedCode

Options = tuple[bool, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _options(
    lazy: bool = False,
    live: Tensor | None = None,
    scales: Tensor | None = None,
    copy: Tensor | None = None,
    norms: Tensor | None = None,
) -> Options:
    return lazy, live, scales, copy, norms


def dense(kernel: Callable) -> Callable:
    """``row_adam_``'s arguments for ``kernel(w, moments, g, step, copy)``."""

    @wraps(kernel)
    def flat(w, m, v, g, lr, beta1, beta2, eps, step, unit, *given, **named):
        lazy, live, scales, copy, norms = _options(*given, **named)
        moments, now = Moments(m, v, scales), AdamStep(lr, beta1, beta2, eps, step, unit, lazy, live)
        return kernel(w, moments, g, now, EncoderCopy.of(copy, norms))

    return flat


def sparse(kernel: Callable) -> Callable:
    """``row_grad_adam_``'s arguments for ``kernel(w, moments, code, coef, u, scale, step, copy)``."""

    @wraps(kernel)
    def flat(w, m, v, starts, entries, tokens, coef, u, scale, lr, beta1, beta2, eps, step, unit, *given, **named):
        lazy, live, scales, copy, norms = _options(*given, **named)
        moments, now = Moments(m, v, scales), AdamStep(lr, beta1, beta2, eps, step, unit, lazy, live)
        code = SortedCode(starts, entries, tokens)
        return kernel(w, moments, code, coef, u, scale, now, EncoderCopy.of(copy, norms))

    return flat


def encoder(kernel: Callable) -> Callable:
    """``encoder_grad_adam_``'s arguments for ``kernel(w, moments, code, coef, u, bias, step, copy)``."""

    @wraps(kernel)
    def flat(w, m, v, starts, entries, tokens, coef, u, bias, lr, beta1, beta2, eps, step, *given, **named):
        lazy, live, scales, copy, norms = _options(*given, **named)
        moments, now = Moments(m, v, scales), AdamStep(lr, beta1, beta2, eps, step, False, lazy, live)
        code = SortedCode(starts, entries, tokens)
        return kernel(w, moments, code, coef, u, bias, now, EncoderCopy.of(copy, norms))

    return flat
