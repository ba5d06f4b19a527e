"""Products in the precision of their factors, whatever the caller's process has chosen for its own.

``torch.autocast`` and ``torch.set_float32_matmul_precision`` (or ``torch.backends.….fp32_precision``) are for the
caller's model. They would have our products made in bfloat16 or TF32: a step would train on other numbers, counts above
256 would be rounded, and the margin that certifies a selection would be too narrow, so that features would be lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps

import torch

# Where PyTorch has no setting for each kind of device (before 2.9), "" stands for the one that it has for all.
_PRODUCTS = {
    name: product.matmul
    for name in ("cuda", "mkldnn")
    if hasattr(product := getattr(torch.backends, name), "matmul") and hasattr(product.matmul, "fp32_precision")
}
_ENGINES = {"cpu": "mkldnn", "cuda": "cuda"}  # whose setting it is
_FULL = ("ieee", "none", "highest")
_BF16_SUMS = "allow_bf16_reduced_precision_reduction"
_lock = threading.Lock()  # outside any call of ours the settings are the caller's

Undo = Callable[[], None]


class _Held:
    """Settings of the whole process, held while any call, in any thread, is inside; then they are what they were.

    Args:
        hold: makes them what they shall be; returns what puts back those that were not.
    """

    def __init__(self, hold: Callable[[], list[Undo]]) -> None:
        self._hold, self._undo = hold, []
        self.inside = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with _lock:
            self._undo += self._hold()
            self.inside += 1
        try:
            yield
        finally:
            with _lock:
                self.inside -= 1
                if not self.inside:
                    for undo in self._undo:
                        undo()
                    self._undo.clear()


def as_given(function: Callable) -> Callable:
    """A function of ours that multiplies matrices: neither the caller's autocast nor the precision that the caller lets
    products of fp32 have reaches it."""

    @wraps(function)
    def unaffected(*args, **options):
        casting = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
        with _lock:
            reduced = _full_fp32.inside or _reduced()
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


def lowered_products(device: torch.device) -> str:
    """The setting of the process that lets products of fp32 be less than fp32 there, in words; "" where none does.

    Calls of ours hold it at full precision, in every thread.
    """
    found = {name: value for name, value in _reduced().items() if name in ("", _ENGINES.get(device.type, ""))}
    return " and ".join(
        f"torch.backends.{name}.matmul.fp32_precision is {value!r}"
        if name
        else f"torch.get_float32_matmul_precision() is {value!r}"
        for name, value in found.items()
    )


def _put(name: str, value: str) -> None:
    if not name:
        torch.set_float32_matmul_precision(value)
    else:
        # A value inherited from the setting for everything is inherited again, not fixed.
        everywhere = torch.backends.fp32_precision  # pyright: ignore[reportAttributeAccessIssue]  # no stub has it
        _PRODUCTS[name].fp32_precision = "none" if value == everywhere else value


def _hold_fp32() -> list[Undo]:
    reduced = _reduced()
    for name in reduced:
        _put(name, "ieee" if name else "highest")
    return [partial(_put, name, value) for name, value in reduced.items()]


def _hold_sums() -> list[Undo]:
    matmul = torch.backends.cuda.matmul
    # With the setting of split sums, where PyTorch has one: both are set by a pair.
    names = [name for name in (_BF16_SUMS, _BF16_SUMS + "_split_k") if hasattr(matmul, name)]
    before = [getattr(matmul, name) for name in names]
    if not before[0]:
        return []
    setattr(matmul, _BF16_SUMS, False)
    return [partial(setattr, matmul, _BF16_SUMS, tuple(before) if len(before) > 1 else before[0])]


_full_fp32 = _Held(_hold_fp32)
# cuBLAS may add parts of a product of bf16 in bf16; within this it may not, whatever the caller lets it do.
summed_in_fp32 = _Held(_hold_sums)
