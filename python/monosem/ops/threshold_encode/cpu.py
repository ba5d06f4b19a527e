"""ReLU on a CPU: pre-activations are computed in cache-sized tiles, filtered there, and never stored."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import step_stats
from monosem.ops.backend import native as _C
from monosem.ops.layout import fp32, threads
from monosem.ops.selection.cpu import BITS, ROWS, WHOLE, Encoder
from monosem.ops.structs import EncoderCopy

BLOCK = WHOLE  # tokens at a time


def threshold_encode(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    threshold: Tensor | None = None,
    copy: Tensor | None = None,
    norms: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.threshold_encode`` in memory that grows with the active entries."""
    n, encoder = len(x), Encoder(w, b, threshold, EncoderCopy.of(copy, norms))
    rows = fp32(x)
    product = encoder.suited(rows, encoder.product)
    step = max(1, min(BLOCK if product in BITS else ROWS, n))
    block = _C.ThresholdBlock(step)
    counts = torch.zeros(n, dtype=torch.int64, device="cpu")
    values, indices = (
        [torch.empty(0, dtype=torch.float32, device="cpu")],
        [torch.empty(0, dtype=torch.int32, device="cpu")],
    )
    for start in range(0, n, step):
        part, rescored = rows if step == n else rows[start : start + step], (0, 0)
        if product in BITS:
            rescored = encoder.integers(part, product).threshold(block)
        elif not encoder.filter(block, part, product):
            rescored = block.rescore(len(part), encoder.exact(part), threads())
        step_stats.encoded(product, len(part), *rescored)
        total = block.counts(len(part), counts[start:])
        values.append(torch.empty(total, dtype=torch.float32, device="cpu"))
        indices.append(torch.empty(total, dtype=torch.int32, device="cpu"))
        block.finish(len(part), values[-1], indices[-1])
    offsets = torch.zeros(n + 1, dtype=torch.int64, device="cpu")
    torch.cumsum(counts, 0, out=offsets[1:])
    return torch.cat(values).to(x.dtype), torch.cat(indices), offsets
