"""Errors that state the argument, the value received, the value expected and the fix."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float64)


def shape(name: str, tensor: Tensor, wanted: tuple[int | str, ...]) -> None:
    """Raise unless the tensor has the wanted shape; a string stands for any length and names it."""
    fits = tensor.ndim == len(wanted) and all(
        isinstance(w, str) or s == w for s, w in zip(tensor.shape, wanted, strict=False)
    )
    if not fits:
        named = "[" + ", ".join(map(str, wanted)) + "]"
        raise ValueError(f"{name}: got shape {list(tensor.shape)}; wanted {named}")


def same(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both tensors share device and dtype, which must be one that the kernels know."""
    if tensor.device != other.device:
        raise ValueError(f"{name}: on {tensor.device}, but {other_name} is on {other.device}; move one with `.to(...)`")
    if tensor.dtype != other.dtype:
        raise ValueError(
            f"{name}: got {tensor.dtype}, but {other_name} is {other.dtype}; convert one, e.g. {name}.to({other.dtype})"
        )
    floating(name, tensor)


def floating(name: str, tensor: Tensor) -> None:
    """Raise unless the dtype is float32, bfloat16 or float64."""
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{name}: got {tensor.dtype}; wanted float32, bfloat16 or float64. Convert with `.float()`")


def topk(k: int, d_sae: int, name: str = "k") -> None:
    """Raise unless 1 ≤ k ≤ d_sae."""
    if not isinstance(k, int) or isinstance(k, bool) or not 0 < k <= d_sae:
        raise ValueError(f"{name}: got {k!r}; wanted an integer from 1 to d_sae={d_sae}")
