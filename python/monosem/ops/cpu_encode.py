"""Encode and select on a CPU: the product a tile at a time by PyTorch, the selection on the hot tile by ours.

A tile of ROWS tokens × COLS features stays in cache between the two. Where the processor multiplies bf16, the
product runs in bf16, everything within the certified rounding margin survives, and the survivors are scored again in
fp32: the choice is that of the fp32 definition.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from monosem.ops import backend
from monosem.ops.backend import native as _C
from monosem.ops.cpu_rows import fp32, threads, weights

ROWS, COLS = 1024, 1024
SLOT_BYTES = 64 << 20  # the survivors' buffer of a block of tokens stays below this, whatever k
# |x·w − product in bf16| ≤ 2⁻⁷·‖x‖·‖w‖: two roundings of the factors (2⁻⁹ each, first order 2⁻⁸ by Cauchy-Schwarz),
# one of the result (2⁻⁹), and the rest for the accumulation in fp32.
MARGIN = 2.0**-7


def topk(x: Tensor, w: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``reference.topk_encode`` with nothing of size tokens × F."""
    n, exact = len(x), not backend.bf16_products()
    values, indices = torch.empty(n, k), torch.empty(n, k, dtype=torch.int32)
    bias = fp32(b)
    capacity = _capacity(k, exact)
    step = max(1, min(ROWS, n, SLOT_BYTES // (8 * capacity)))
    block = _C.TopkBlock(step, k, capacity)
    rows_w, dtype = weights(w)
    for start in range(0, n, step):
        part = fp32(x[start : start + step])
        _offer(block, part, rows_w, bias, exact)
        if not exact:
            block.rescore(
                len(part), part.data_ptr(), rows_w.data_ptr(), dtype, w.shape[1], bias.data_ptr(), threads()
            )  # fmt: skip
        out_v, out_i = values[start : start + step], indices[start : start + step]
        redo = [] if exact else block.overflowed(len(part))
        block.finish(len(part), out_v.data_ptr(), out_i.data_ptr(), threads())
        if redo:  # more values within the margin than the buffer holds (ties, constant rows): exactly, then
            again = _C.TopkBlock(len(redo), k, _capacity(k, True))
            some = part[redo]
            _offer(again, some, rows_w, bias, True)
            v, i = torch.empty(len(redo), k), torch.empty(len(redo), k, dtype=torch.int32)
            again.finish(len(redo), v.data_ptr(), i.data_ptr(), threads())
            out_v[redo], out_i[redo] = v, i
    return values.to(x.dtype), indices


def threshold(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.threshold_encode`` in memory that grows with what is active."""
    n, exact = len(x), not backend.bf16_products()
    bias = fp32(b)
    block = _C.ThresholdBlock(min(ROWS, n))
    rows_w, dtype = weights(w)
    counts = torch.zeros(n, dtype=torch.int64)
    values, indices = [torch.empty(0)], [torch.empty(0, dtype=torch.int32)]
    for start in range(0, n, ROWS):
        part = fp32(x[start : start + ROWS])
        _offer(block, part, rows_w, bias, exact)
        if not exact:
            block.rescore(
                len(part), part.data_ptr(), rows_w.data_ptr(), dtype, w.shape[1], bias.data_ptr(), threads()
            )  # fmt: skip
        total = block.counts(len(part), counts[start:].data_ptr())
        values.append(torch.empty(total))
        indices.append(torch.empty(total, dtype=torch.int32))
        block.finish(len(part), values[-1].data_ptr(), indices[-1].data_ptr())
    offsets = torch.zeros(n + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    return torch.cat(values).to(x.dtype), torch.cat(indices), offsets


def _capacity(k: int, exact: bool) -> int:
    """Slots a token: room for a while between two cuts, and for what lies within the margin of the k-th."""
    return 2 * k + 64 if exact else 8 * k + 256


def _offer(block, x: Tensor, w: Tensor, bias: Tensor, exact: bool) -> None:
    """Show every tile of ``x·wᵀ`` to the block."""
    block.begin()
    for first, tile, margin in _tiles(x, w, exact):
        block.filter(
            tile.data_ptr(), 0 if exact else 1, len(x), tile.shape[1], first, bias[first:].data_ptr(),
            0 if margin is None else margin.data_ptr(), threads(),
        )  # fmt: skip


def _tiles(x: Tensor, w: Tensor, exact: bool) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    f, wanted = len(w), torch.float32 if exact else torch.bfloat16
    left = x.to(wanted)
    buffer = torch.empty(len(x) * min(COLS, f), dtype=wanted)
    margin = None
    if not exact:
        longest = torch.stack([rows.float().norm(dim=1).amax() for rows in w.split(COLS)]).amax()
        margin = fp32(x.norm(dim=1) * (longest * MARGIN))
    for first in range(0, f, COLS):
        rows = w[first : first + COLS].to(wanted)
        tile = buffer[: len(x) * len(rows)].view(len(x), len(rows))
        torch.mm(left, rows.T, out=tile)
        yield first, tile, margin
