"""Products in the precision of their factors, whatever the caller's process has chosen for its own.

``torch.autocast`` and ``torch.set_float32_matmul_precision`` (or ``torch.backends.….fp32_precision``) are for the
caller's model. They would have our products made in bfloat16 or TF32: a step would train on other numbers, counts above
256 would be rounded, and the margin that certifies a selection would be too narrow, so that features would be lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps

import torch

# Where PyTorch has no setting for each kind of device (before 2.9), "" stands for the one that it has for all.
_PRODUCTS = {
    name: product.matmul
    for name in ("cuda", "mkldnn")
    if hasattr(product := getattr(torch.backends, name), "matmul") and hasattr(product.matmul, "fp32_precision")
}
_FULL = ("ieee", "none", "highest")
_lock = threading.Lock()
_inside = 0  # calls that run in full fp32 now, in all threads: the settings are the whole process's
_before: dict[str, str] = {}


def as_given(function: Callable) -> Callable:
    """A function of ours that multiplies matrices: neither the caller's autocast nor the precision that the caller lets
    products of fp32 have reaches it."""

    @wraps(function)
    def unaffected(*args, **options):
        casting = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
        with _lock:  # outside any call the settings are the caller's
            reduced = _inside or _reduced()
        if not casting and not reduced:
            return function(*args, **options)
        with ExitStack() as stack:
            for device in casting:
                stack.enter_context(torch.autocast(device, enabled=False))
            if reduced:
                stack.enter_context(_full_fp32())
            return function(*args, **options)

    return unaffected


def _reduced() -> dict[str, str]:
    """{setting: its value} of those that let products of fp32 be less than fp32."""
    if not _PRODUCTS:
        return {"": value} if (value := torch.get_float32_matmul_precision()) not in _FULL else {}
    return {name: value for name, product in _PRODUCTS.items() if (value := product.fp32_precision) not in _FULL}


def _put(name: str, value: str) -> None:
    if not name:
        torch.set_float32_matmul_precision(value)
    else:
        # What is inherited from the setting for everything is inherited again, not fixed.
        _PRODUCTS[name].fp32_precision = "none" if value == torch.backends.fp32_precision else value


@contextmanager
def _full_fp32() -> Iterator[None]:
    """fp32 products in fp32, until the last of the calls that run at the same time has returned."""
    global _inside
    with _lock:
        for name, value in _reduced().items():
            _before[name] = value
            _put(name, "ieee" if name else "highest")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for name, value in _before.items():
                    _put(name, value)
                _before.clear()


@contextmanager
def summed_in_fp32() -> Iterator[None]:
    """cuBLAS may add parts of a product of bf16 in bf16; here it may not, whatever the caller's process lets it do."""
    global _summing, _summed_before
    matmul = torch.backends.cuda.matmul
    with _lock:
        if not _summing:
            _summed_before = tuple(
                getattr(matmul, _REDUCED + part) for part in ("", "_split_k") if hasattr(matmul, _REDUCED + part)
            )
            setattr(matmul, _REDUCED, False)
        _summing += 1
    try:
        yield
    finally:
        with _lock:
            _summing -= 1
            if not _summing:
                setattr(matmul, _REDUCED, _summed_before if len(_summed_before) > 1 else _summed_before[0])


_REDUCED = "allow_bf16_reduced_precision_reduction"
_summing = 0
_summed_before: tuple[bool, ...] = ()
