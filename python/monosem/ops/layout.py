"""Tensors in the layout that the kernels read: contiguous, of the right dtype, and codes that point nowhere else."""

from __future__ import annotations

import os

import torch
from torch import Tensor


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
    entries = len(i) if o[-1] == len(i) else len(i) - int((i == d_sae).sum())
    if entries:
        low, high = (int(t) for t in torch.aminmax(i[:entries]))
        if low < 0 or high >= d_sae:
            raise IndexError(f"indices: got features {low} to {high}; wanted 0 to {d_sae - 1}")
    if o[0] != 0 or o[-1] != entries or (o.diff() < 0).any():
        raise IndexError(f"offsets: got {int(o[0])} … {int(o[-1])}; wanted ascending from 0 to {entries}, the entries")
    return i, o, len(o) - 1


def code_without_waiting(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, int]:
    """``checked_code`` on a CPU. On a GPU a check would synchronise: there it needs ``MONOSEM_CHECK=1``."""
    if indices.device.type == "cpu" or os.environ.get("MONOSEM_CHECK", "0") not in ("", "0"):
        return checked_code(indices, offsets, d_sae)
    return indices.contiguous(), offsets.contiguous(), len(offsets) - 1
