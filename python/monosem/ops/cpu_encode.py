"""Encode and select on a CPU: each feature's value is made, looked at while it is in cache, and forgotten.

Three products, by ``backend.cpu_product()``. ``fp32``: exact tiles by PyTorch. ``bf16``, where the processor multiplies
it, and ``int16``, where it does not: everything within the certified rounding margin survives, and the survivors are
scored again in fp32, so that the choice is that of the fp32 definition.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from monosem.ops import backend, cpu_int16
from monosem.ops.backend import native as _C
from monosem.ops.cpu_rows import fp32, threads, weights

ROWS, COLS = 1024, 1024  # of a tile by PyTorch, which stays in cache between product and selection
SLOT_BYTES = 64 << 20  # the survivors' buffer of a block of tokens stays below this, whatever k
# |x·w − product in bf16| ≤ 2⁻⁷·‖x‖·‖w‖: two roundings of the factors (2⁻⁹ each, first order 2⁻⁸ by Cauchy-Schwarz),
# one of the result (2⁻⁹), and the rest for the accumulation in fp32.
MARGIN = 2.0**-7


def topk(x: Tensor, w: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``reference.topk_encode`` with nothing of size tokens × F."""
    n, encoder = len(x), _Encoder(w, b)
    values, indices = torch.empty(n, k), torch.empty(n, k, dtype=torch.int32)
    capacity = _capacity(k, encoder.product)
    step = max(1, min(encoder.step, n, SLOT_BYTES // (8 * capacity)))
    block = _C.TopkBlock(step, k, capacity)
    for start in range(0, n, step):
        part = fp32(x[start : start + step])
        out_v, out_i = values[start : start + step], indices[start : start + step]
        margin, redo = encoder.offer(block, part), []
        if margin is not None:
            redo = block.overflowed(len(part))
            block.rescore(len(part), margin.data_ptr(), part.data_ptr(), *encoder.addresses, threads())
        block.finish(len(part), out_v.data_ptr(), out_i.data_ptr(), threads())
        if redo:  # more values within the margin than the buffer holds (ties, constant rows): exactly, then
            again = _C.TopkBlock(len(redo), k, _capacity(k, "fp32"))
            _offer(again, part[redo], encoder.rows, encoder.bias, None, True)
            v, i = torch.empty(len(redo), k), torch.empty(len(redo), k, dtype=torch.int32)
            again.finish(len(redo), v.data_ptr(), i.data_ptr(), threads())
            out_v[redo], out_i[redo] = v, i
    return values.to(x.dtype), indices


def threshold(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.threshold_encode`` in memory that grows with what is active."""
    n, encoder = len(x), _Encoder(w, b)
    step = max(1, min(encoder.step, n))
    block = _C.ThresholdBlock(step)
    counts = torch.zeros(n, dtype=torch.int64)
    values, indices = [torch.empty(0)], [torch.empty(0, dtype=torch.int32)]
    for start in range(0, n, step):
        part = fp32(x[start : start + step])
        if encoder.offer(block, part) is not None:
            block.rescore(len(part), part.data_ptr(), *encoder.addresses, threads())
        total = block.counts(len(part), counts[start:].data_ptr())
        values.append(torch.empty(total))
        indices.append(torch.empty(total, dtype=torch.int32))
        block.finish(len(part), values[-1].data_ptr(), indices[-1].data_ptr())
    offsets = torch.zeros(n + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    return torch.cat(values).to(x.dtype), torch.cat(indices), offsets


class _Encoder:
    """The encoder's weights, and the product that suits them."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        self.rows, self.dtype = weights(w)
        self.bias = fp32(b)
        self.addresses = self.rows.data_ptr(), self.dtype, w.shape[1], self.bias.data_ptr()
        self.product = backend.cpu_product()
        if self.product == "int16" and w.shape[1] > cpu_int16.WIDEST:
            self.product = "fp32"
        self.step = cpu_int16.rows_at_a_time(w.shape[1]) if self.product == "int16" else ROWS
        if self.product != "fp32":
            self._longest = _C.largest_norm(self.rows.data_ptr(), self.dtype, *w.shape, threads())
            self._largest_bias = float(self.bias.nan_to_num(0.0, 0.0, 0.0).abs().amax())

    def offer(self, block, x: Tensor) -> Tensor | None:
        """Show every feature's value for x to the block. The margin of each token, or None if the values are exact."""
        margin = None
        if self.product == "bf16":
            margin = fp32(x.norm(dim=1) * (self._longest * MARGIN))
        elif self.product == "int16":
            margin = cpu_int16.margin(x.norm(dim=1), self._longest, self._largest_bias, x.shape[1])
        if margin is not None and not torch.isfinite(margin).all():  # NaN, Inf: by the rules of fp32
            margin = None
        if self.product == "int16" and margin is not None:
            cpu_int16.offer(block, x, self.rows, self.dtype, self.bias, margin)
        else:
            _offer(block, x, self.rows, self.bias, margin, margin is None)
        return margin


def _capacity(k: int, product: str) -> int:
    """Slots a token: room for a while between two cuts, and for what lies within the margin of the k-th."""
    return {"fp32": 2 * k + 64, "int16": 4 * k + 64, "bf16": 8 * k + 256}[product]


def _offer(block, x: Tensor, w: Tensor, bias: Tensor, margin: Tensor | None, exact: bool) -> None:
    """Show every tile of ``x·wᵀ``, by PyTorch in fp32 (exact) or bf16, to the block."""
    block.begin()
    for first, tile in _tiles(x, w, exact):
        block.filter(
            tile.data_ptr(), 0 if exact else 1, len(x), tile.shape[1], first, bias[first:].data_ptr(),
            0 if margin is None else margin.data_ptr(), threads(),
        )  # fmt: skip


def _tiles(x: Tensor, w: Tensor, exact: bool) -> Iterator[tuple[int, Tensor]]:
    f, wanted = len(w), torch.float32 if exact else torch.bfloat16
    left = x.to(wanted)
    buffer = torch.empty(len(x) * min(COLS, f), dtype=wanted)
    for first in range(0, f, COLS):
        rows = w[first : first + COLS].to(wanted)
        tile = buffer[: len(x) * len(rows)].view(len(x), len(rows))
        torch.mm(left, rows.T, out=tile)
        yield first, tile
