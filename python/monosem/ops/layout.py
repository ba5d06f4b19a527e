"""Tensors in the layout that the kernels read: contiguous, of the right dtype, and codes that point nowhere else."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from monosem.ops.backend import native


def fp32(t: Tensor) -> Tensor:
    """Contiguous float32; no copy when it is so already."""
    return t.to(torch.float32).contiguous()


def threads() -> int:
    return torch.get_num_threads()


def checked_code(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, int]:
    """A code in the layout that the kernels read, and its tokens. They follow it blindly, so it is checked here.

    Behind the last entry there may be room that is not used, where the feature is ``d_sae``.

    Raises:
        IndexError: a feature outside 0…d_sae − 1, or offsets that do not divide the entries.
    """
    i, o = indices.contiguous(), offsets.contiguous()
    first, last = int(o[0]), int(o[-1])
    entries = len(i) if last == len(i) else len(i) - int((i == d_sae).sum())
    low, high, ascends = _range(i, entries, o)
    if low < 0 or high >= d_sae:
        raise IndexError(f"indices: got features {low} to {high}; wanted 0 to {d_sae - 1}")
    if first != 0 or last != entries or not ascends:
        raise IndexError(f"offsets: got {first} … {last}; wanted ascending from 0 to {entries}, the entries")
    return i, o, len(o) - 1


def _range(indices: Tensor, entries: int, offsets: Tensor) -> tuple[int, int, bool]:
    """The least and the largest of the first ``entries`` features (0 and −1 of none), and whether offsets ascend."""
    if (indices.device.type, indices.dtype, offsets.dtype) == ("cpu", torch.int32, torch.int64) and native is not None:
        return native.code_range(indices=indices, entries=entries, offsets=offsets)
    low, high = (int(t) for t in torch.aminmax(indices[:entries])) if entries else (0, -1)
    return low, high, not bool((offsets.diff() < 0).any())


def code_without_waiting(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, int]:
    """``checked_code`` on a CPU. On a GPU a check would synchronise: there it needs ``MONOSEM_CHECK=1``."""
    if indices.device.type == "cpu" or os.environ.get("MONOSEM_CHECK", "0") not in ("", "0"):
        return checked_code(indices, offsets, d_sae)
    return indices.contiguous(), offsets.contiguous(), len(offsets) - 1
