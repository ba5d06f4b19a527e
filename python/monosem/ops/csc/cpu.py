"""The native kernel, given tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.backend import native as _C
from monosem.ops.layout import checked_code, threads
from monosem.ops.structs import SortedCode


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    i, o, _ = checked_code(indices, offsets, d_sae)
    starts = torch.empty(d_sae + 1, dtype=torch.int64, device="cpu")
    entries, tokens = (
        torch.empty(len(i), dtype=torch.int64, device="cpu"),
        torch.empty(len(i), dtype=torch.int32, device="cpu"),
    )
    out = SortedCode(starts, entries, tokens)
    _C.csc(indices=i, offsets=o, features=d_sae, out=out, threads=threads())
    return starts, entries, tokens
