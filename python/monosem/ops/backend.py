"""Which implementation runs: the native module for CPU tensors, Triton or CUDA for GPU tensors (``ops/gpu.py``).

Importing never fails. Without the compiled module CPU tensors go to the definitions in plain PyTorch, with a warning.
``MONOSEM_BACKEND=reference`` asks for those on every device, ``triton`` or ``cuda`` for those kernels on GPU tensors,
``native`` (the default) for the choice of each device; ``MONOSEM_ISA`` (baseline, avx2, avxvnni, avx512, avx512vnni,
amx) and ``MONOSEM_PRODUCT`` (fp32, bf16, int16, int8, sparse) override what the processor and the tokens, or the GPU's
table, would choose.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

try:
    from monosem import _C

    if getattr(_C, "interface", 1) != 8:
        raise ImportError("it was built from older sources: build it again, or copy the new one")
    native: Any = _C
    native_error = ""
    absent = False
except ImportError as error:
    native = None
    native_error = str(error)
    absent = importlib.util.find_spec("monosem._C") is None  # never built, and not built but broken
    said = Path(__file__).parents[1] / "native_build.txt"  # what CMake wrote when it found no compiler
    if absent and said.is_file():
        native_error = said.read_text(encoding="utf-8").strip()

_CHOICES = ("native", "reference", "triton", "cuda")


def requested() -> str:
    """The value of ``MONOSEM_BACKEND``, checked."""
    choice = os.environ.get("MONOSEM_BACKEND", "native")
    if choice not in _CHOICES:
        raise ValueError(f"MONOSEM_BACKEND: got {choice!r}; wanted one of {', '.join(_CHOICES)}")
    return choice


def use_native() -> bool:
    """True when a CPU tensor goes to the compiled kernels.

    Raises:
        RuntimeError: they are there and cannot be loaded, or are absent and were asked for by name.
    """
    if requested() == "reference":
        return False
    if native is not None:
        return True
    if absent and "MONOSEM_BACKEND" not in os.environ:
        warn_device("cpu", f"its compiled CPU module was not built ({native_error})")
        return False
    raise RuntimeError(
        f"monosem's compiled CPU module cannot be used ({native_error}). Install it again with `pip install .` (needs "
        "a C++ compiler), or set MONOSEM_BACKEND=reference to run the slow definitions in plain PyTorch. "
        "`monosem doctor` has the details."
    )


def large_pages(t: torch.Tensor) -> None:
    """Ask the system to keep a large CPU tensor in large pages, best before it is first written; rows come in no order.

    Best effort (Linux only); results do not depend on it.
    """
    if t.device.type == "cpu" and native is not None:
        native.large_pages(t.data_ptr(), t.numel() * t.element_size())


@cache
def warn_device(device_type: str, reason: str) -> None:
    """Say once that no kernel can be used on this device, and why."""
    warnings.warn(
        f"monosem runs the definitions in plain PyTorch on {device_type!r} tensors (right, but slow and with an array "
        f"of tokens × features): {reason}. `monosem doctor` has the details.",
        stacklevel=3,
    )


PRODUCTS = ("auto", "fp32", "bf16", "int16", "int8", "sparse")


def _asked_product() -> str:
    choice = os.environ.get("MONOSEM_PRODUCT", "auto")
    if choice not in PRODUCTS:
        raise ValueError(f"MONOSEM_PRODUCT: got {choice!r}; wanted one of {', '.join(PRODUCTS)}")
    return choice


@cache
def cpu_product() -> str:
    """How the encoder multiplies on this CPU; candidates are rescored in fp32.

    ``int8`` where the kernels have VNNI or AMX; ``int16`` where they have AVX2 or AVX-512; else ``fp32``. In place of
    the first two an encoder takes ``sparse`` where its tokens are (``selection.cpu``). ``MONOSEM_PRODUCT`` overrides.
    """
    if (choice := _asked_product()) != "auto":
        return choice
    if native is None or native.isa() == "baseline":
        return "fp32"
    return "int8" if native.fast_int8() else "int16"


@cache
def free_to_choose() -> bool:
    """Whether an encoder on this CPU may take another product by its tokens: ``MONOSEM_PRODUCT`` names none."""
    return _asked_product() == "auto"


@cache
def certain() -> bool:
    """Whether only products are wanted whose error bound holds for certain: ``MONOSEM_BOUND=certain``.

    Else int8 rows are dithered, and their bound fails once in 10¹⁹ pairs (``docs/design/dithered_bound.md``).
    """
    choice = os.environ.get("MONOSEM_BOUND", "auto")
    if choice not in ("auto", "certain"):
        raise ValueError(f"MONOSEM_BOUND: got {choice!r}; wanted auto or certain")
    return choice == "certain"


def gpu_product() -> str:
    """The same on GPUs: ``fp32``, ``bf16``, ``int8``, or ``auto`` for what the GPU's table says, else bf16.

    ``MONOSEM_PRODUCT=bf16`` (and int16 and sparse, which GPUs do not have) keeps to bounds that hold for certain; those
    of int8 fail once in 10²⁰ pairs (``docs/design/dithered_bound.md``).
    """
    asked = _asked_product()
    return "bf16" if asked in ("int16", "sparse") or (certain() and asked in ("auto", "int8")) else asked
