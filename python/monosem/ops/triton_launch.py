"""How Triton's kernels are launched: with the block sizes of this GPU, and not for an empty grid."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

import monosem.kernels.launch as launch

# (Name, architecture) for tensors that are on no GPU: Triton's interpreter, or a target to compile for.
assumed = ("", "interpreter")


@cache
def _gpu(index: int) -> tuple[str, str]:
    p = torch.cuda.get_device_properties(index)
    arch = getattr(p, "gcnArchName", "").split(":")[0] if torch.version.hip else f"sm_{p.major}{p.minor}"
    return p.name, arch


def architecture(like: Tensor) -> str:
    """``sm_90``, ``gfx942`` … of the device of ``like``, or ``interpreter``."""
    return (_gpu(like.device.index) if like.device.type == "cuda" else assumed)[1]


def blocks(kernel, size: int, like: Tensor) -> dict[str, Any]:
    """Constants and launch options of a kernel, or a choice by its name, for the device of ``like``; see
    ``monosem.kernels.launch.block``."""
    name, arch = _gpu(like.device.index) if like.device.type == "cuda" else assumed
    return launch.block(kernel if isinstance(kernel, str) else kernel.__name__, size, name, arch)


def run(kernel, grid: int, *args, **options) -> None:
    """Launch ``grid`` programs."""
    if grid:
        kernel[(grid,)](*args, **options)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
