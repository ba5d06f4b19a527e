"""Large arrays in a processor's memory that every step needs anew, in memory that is kept from one step to the next.

An allocator gives so large an array back to the system, and new pages are cleared one by one when they are first
written: in a step of 131,072 features with AuxK at work that took a tenth of it.
"""

from __future__ import annotations

import math
import threading
import weakref

import torch
from torch import Tensor

from monosem.ops import backend

LEAST = 32 << 20  # bytes; smaller arrays an allocator keeps by itself
MOST_FREE = 2  # arrays kept while nobody uses them: the largest of a step are an encoder's packed rows and AuxK's rows
WASTE = 4  # an array is not put into memory of more than so many times its size

_free: list[Tensor] = []  # uint8
_lock = threading.RLock()  # a tensor may be collected, and its memory given back, while this thread holds it


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An array like ``torch.empty`` on a CPU. Its memory is used again once the tensor is gone: no view of it may live
    longer than the tensor itself."""
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST:
        return torch.empty(shape, dtype=dtype, device="cpu")
    memory = _taken(size)
    array = memory[:size].view(dtype).view(shape)
    weakref.finalize(array, _give_back, memory).atexit = False
    return array


def gather(rows: Tensor, numbers: Tensor) -> Tensor:
    """``rows[numbers]`` of rows [F, D] and int64 [R]. On a CPU, and where no gradient is recorded, as of ``empty``."""
    if rows.device.type != "cpu" or (torch.is_grad_enabled() and rows.requires_grad):
        return rows[numbers]
    return torch.index_select(rows.detach(), 0, numbers, out=empty((len(numbers), rows.shape[1]), rows.dtype))


def release() -> None:
    """Give the memory that nobody uses back to the system."""
    with _lock:
        _free.clear()


def _taken(size: int) -> Tensor:
    with _lock:
        fitting = [m for m in _free if size <= len(m) <= WASTE * size]
        if fitting:
            memory = min(fitting, key=len)
            _free[:] = [m for m in _free if m is not memory]
            return memory
    grain = 1 << (size.bit_length() - 4)  # an eighth of a power of two: the number of dead features changes every step
    memory = torch.empty(-(-size // grain) * grain, dtype=torch.uint8, device="cpu")
    backend.large_pages(memory)
    return memory


def _give_back(memory: Tensor) -> None:
    with _lock:
        _free.append(memory)
        del _free[:-MOST_FREE]  # the oldest
