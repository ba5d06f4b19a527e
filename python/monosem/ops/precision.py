"""Products in the precision of their factors, whatever ``torch.autocast`` surrounds the call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps

import torch


def as_given(function: Callable) -> Callable:
    """A function of ours that multiplies matrices: a caller's autocast, which is for the caller's model, would have its
    products made in bfloat16. A step would train on other numbers, and counts above 256 would be rounded."""

    @wraps(function)
    def unaffected(*args, **options):
        casting = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
        if not casting:
            return function(*args, **options)
        with ExitStack() as stack:
            for device in casting:
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **options)

    return unaffected
