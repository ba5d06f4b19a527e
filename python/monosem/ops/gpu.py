"""Which implementation an operation has on a GPU tensor: one table, and why.

Triton is the default for every operation until a measurement on a GPU says otherwise (then ``PREFERRED`` names the
winner). ``MONOSEM_BACKEND=triton``, ``cuda`` or ``reference`` overrides the choice for all operations.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache

import torch
from torch.utils._pytree import tree_leaves

from monosem.ops import adam, backend, cuda_launch

# operation → backend → where its implementation is ("module:function"), which is
# imported when first used. ``register`` fills this table and the next.
IMPLEMENTATIONS: dict[str, dict[str, str]] = {}
# operation → wraps an implementation that takes structs into one that takes the operation's arguments.
PACKED: dict[str, Callable[[Callable], Callable]] = {}
# operation → backend, where something other than Triton was measured to be faster.
PREFERRED: dict[str, str] = {}


@cache
def available(name: str) -> str:
    """Empty when this backend can be used here, otherwise what is missing and what to do."""
    if name == "triton":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed; `pip install triton` (it comes with PyTorch's CUDA builds)"
        return ""
    if name == "cuda":
        if importlib.util.find_spec("monosem._cuda") is None:
            return "the module monosem._cuda was not built; install from source where `nvcc` is on PATH"
        return f"the module monosem._cuda cannot be used ({cuda_launch.broken})" if cuda_launch.broken else ""
    return ""


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors (``TRITON_INTERPRET=1``): for tests, slow."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0") and backend.requested() == "triton"


def asynchronous(t: torch.Tensor) -> bool:
    """Whether the host must not synchronise on results of this tensor: on a GPU, where there are kernels for it."""
    return t.device.type == "cuda" and t.dtype != torch.float64 and choose("threshold_encode_within")[0] != "reference"


def runs_kernels(t: torch.Tensor) -> bool:
    """Whether kernels for GPUs work on this tensor, be it in Triton's interpreter."""
    return t.dtype != torch.float64 and (t.device.type == "cuda" or interpreted())


def copy_dtype(w: torch.Tensor) -> torch.dtype | None:
    """Of the encoder rows w as ``topk_encode(encoder_copy=…)`` takes them; None where they would not be used."""
    if not runs_kernels(w) or w.dtype != torch.float32 or choose("topk_encode")[0] != "triton":
        return None
    return _load("monosem.ops.selection.triton_operand:copy_dtype")(w)


def empty_copy(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Empty arrays for such rows and their norms, or None."""
    return None if copy_dtype(w) is None else _load("monosem.ops.selection.triton_operand:empty_copy")(w)


def round_into(copy: torch.Tensor, norms: torch.Tensor, w: torch.Tensor) -> None:
    """Make the copy that of w."""
    _load("monosem.ops.selection.triton_operand:round_into")(copy, norms, w)


def advance_live_(live: torch.Tensor, lr: torch.Tensor, steps: torch.Tensor, beta1: float, beta2: float) -> None:
    """Count a step in ``steps`` (int64, 0-dim) and write its factors, on the device: ``adam.set_live_``, in one launch
    where there is Triton."""
    if choose("topk_encode")[0] != "triton":
        adam.set_live_(live, lr, steps.add_(1), beta1, beta2)
        return
    with torch.cuda.device(live.device) if live.device.type == "cuda" else nullcontext():
        _load("monosem.ops.row_adam.triton:advance_live_")(live, lr, steps, beta1, beta2)


def choose(op: str) -> tuple[str, str]:
    """Backend of an operation on GPU tensors in float32 or bfloat16, and the reason, both in words.

    Raises:
        RuntimeError: the backend that was asked for cannot be used, or has no such operation.
    """
    asked = backend.requested()
    if asked == "reference":
        return "reference", "set by MONOSEM_BACKEND"
    if asked in ("triton", "cuda"):
        if why := available(asked):
            raise RuntimeError(f"MONOSEM_BACKEND={asked}: {why}; or unset it")
        if asked not in IMPLEMENTATIONS[op]:
            return _default(op)[0], f"MONOSEM_BACKEND={asked} has no {op}; {_default(op)[1]}"
        return asked, "set by MONOSEM_BACKEND"
    return _default(op)


def _default(op: str) -> tuple[str, str]:
    first = PREFERRED.get(op, "triton")
    missing = []
    for name in (first, *(n for n in IMPLEMENTATIONS[op] if n != first)):
        if not (why := available(name)):
            reason = "the default" if name == first == "triton" else "measured to be faster" if name == first else ""
            return name, reason or "; ".join(missing)
        missing.append(why)
    return "reference", "; ".join(missing)


@cache
def _load(path: str) -> Callable:
    module, function = path.split(":")
    return getattr(importlib.import_module(module), function)


@cache
def implementation(op: str, name: str) -> Callable:
    """The function by which this backend computes the operation; it takes the operation's arguments."""
    return PACKED[op](_load(IMPLEMENTATIONS[op][name]))


def call(op: str, reference: Callable, args: tuple) -> object:
    """Run an operation on GPU tensors."""
    name, reason = choose(op)
    device = next(a.device for a in tree_leaves(args) if isinstance(a, torch.Tensor))
    if name == "reference":
        if backend.requested() != "reference":
            backend.warn_device(device.type, reason)
        return reference(*args)
    function = implementation(op, name)
    if device.type != "cuda":
        return function(*args)
    with torch.cuda.device(device):
        return function(*args)
