"""How CUDA's kernels are started: the stream, block sizes as measured, workspaces.

Nothing here waits for the GPU; workspaces come from PyTorch's
allocator, so that a step can be captured in a graph. Codes on a GPU are not checked, for reading them would be a wait:
``MONOSEM_CHECK=1`` does, at that price.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from monosem import _cuda as _built

    if getattr(_built, "interface", 1) != 2:
        raise ImportError("it was built from older sources: build it again, or copy the new one")
    broken = ""
except ImportError as error:  # ``ops.gpu.available`` reports it, and no launcher is called
    _built, broken = None, str(error)
kernels: Any = _built

CUT_BITS = 8  # a feature's entries beyond 2⁸ are summed by several blocks
MOST_PIECES = 4096
THREADS = (32, 64, 128, 256)  # of a block, that tuning may choose from


def stream(t: Tensor) -> int:
    """Address of the current stream of the tensor's device."""
    return torch.cuda.current_stream(t.device).cuda_stream


def tuned(kernel: str, d: int, t: Tensor) -> int:
    """Threads of a block as measured on this GPU; 0, the launcher's own rule, where nothing was."""
    if t.device.type != "cuda":
        return 0
    import monosem.kernels.launch as launch

    table = launch.table(torch.cuda.get_device_name(t.device))
    return table.get(f"cuda_{kernel}", {}).get(str(d), {}).get("threads", 0)


def empty(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device=like.device)


def pieces(nnz: int, u: Tensor) -> tuple[int, Tensor | None]:
    """Bits of the cut, and an array for the sums of pieces; None when no feature can have a whole piece."""
    bits = CUT_BITS
    while nnz >> bits > MOST_PIECES:
        bits += 1
    return bits, empty(u, nnz >> bits, u.shape[1]) if nnz >> bits else None


def launch(kernel: str, like: Tensor, **arguments: Any) -> None:
    """Call a launcher of ``_cuda`` on the stream of ``like``'s device. It checks dtypes and shapes."""
    getattr(kernels, kernel)(**arguments, stream=stream(like))
