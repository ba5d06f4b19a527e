"""Encode and select on a CPU: pre-activations are computed in cache-sized tiles, filtered there, and never stored.

Four products, by ``backend.cpu_product()``. ``fp32``: exact tiles by PyTorch. ``bf16``, where the processor multiplies
it in tiles, ``int8`` and ``int16``, where it has instructions for those: every feature that the certified error bound
cannot rule out is a candidate and is rescored in fp32, so that the choice is that of the fp32 definition. Tokens that a
product does not suit (wide error bounds, too many ties) go to the next: int8, int16, fp32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from monosem.ops import backend, cpu_int, step_stats
from monosem.ops.backend import native as _C
from monosem.ops.cpu_rows import fp32, threads

BITS = {"int8": 8, "int16": 16}  # integer products: their bits
FEW = 64  # tokens
BLOCK = 4096  # tokens at a time
HUGE = 1e30  # no sum of values and bounds below this comes near to what fp32 can hold
ROWS, COLS = 1024, 1024  # of a tile by PyTorch, which stays in cache between product and selection
SLOT_BYTES = 64 << 20  # the candidates' buffer of a block of tokens stays below this, whatever k
SHORT = 64 * cpu_int.TINY  # shorter rows are mostly error bound


def topk(x: Tensor, w: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``reference.topk_encode`` with nothing of size tokens × F."""
    values, indices = (
        torch.empty(len(x), k, dtype=torch.float32, device="cpu"),
        torch.empty(len(x), k, dtype=torch.int32, device="cpu"),
    )
    encoder = _Encoder(w, b)
    redone = _topk(encoder, fp32(x), k, encoder.product, values, indices)
    step_stats.redone(redone)
    return values.to(x.dtype), indices


def _topk(encoder: "_Encoder", x: Tensor, k: int, product: str, values: Tensor, indices: Tensor) -> int:
    """By this product; tokens that it does not suit by the next. Returns how many those are."""
    product = encoder.suited(x, product)
    if product in BITS:
        redo, counts = encoder.integers(x, product).topk(k, _capacity(k, product), values, indices)
    else:
        redo, counts = _topk_in_tiles(encoder, x, k, product, values, indices)
    step_stats.encoded(product, len(x) - len(redo), *counts)
    if redo:  # more values within the error bound than the buffer holds (ties, constant rows)
        at = torch.tensor(redo, dtype=torch.int64, device="cpu")
        again = (
            torch.empty(len(redo), k, dtype=torch.float32, device="cpu"),
            torch.empty(len(redo), k, dtype=torch.int32, device="cpu"),
        )
        # Quantising the weights anew costs more than a few tokens in fp32.
        _topk(encoder, x[at], k, "int16" if product == "int8" and len(redo) > FEW else "fp32", *again)
        values[at], indices[at] = again
    return len(redo)


def _topk_in_tiles(
    encoder: "_Encoder", x: Tensor, k: int, product: str, values: Tensor, indices: Tensor
) -> tuple[list[int], tuple[int, int]]:
    n, capacity = len(x), _capacity(k, product)
    step = max(1, min(ROWS, n, SLOT_BYTES // (12 * capacity)))
    block, redo, candidates, rescored = _C.TopkBlock(step, k, capacity), [], 0, 0
    for start in range(0, n, step):
        part, out_v, out_i = (t[start : start + step] for t in (x, values, indices))
        exact = encoder.filter(block, part, product)
        if not exact:
            left, scored = block.rescore(len(part), encoder.exact(part), threads())
            candidates, rescored = candidates + left, rescored + scored
            redo += [start + r for r in block.overflowed(len(part))]
        block.finish(len(part), out_v, out_i, threads())
    return redo, (candidates, rescored)


def threshold(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.threshold_encode`` in memory that grows with the active entries."""
    n, encoder = len(x), _Encoder(w, b)
    product = encoder.suited(fp32(x), encoder.product)
    step = max(1, min(BLOCK if product in BITS else ROWS, n))
    block = _C.ThresholdBlock(step)
    counts = torch.zeros(n, dtype=torch.int64, device="cpu")
    values, indices = (
        [torch.empty(0, dtype=torch.float32, device="cpu")],
        [torch.empty(0, dtype=torch.int32, device="cpu")],
    )
    for start in range(0, n, step):
        part, rescored = fp32(x[start : start + step]), (0, 0)
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


class _Encoder:
    """The encoder's weights, and the product that suits them."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        self.rows, self.bias = w.contiguous(), fp32(b)
        self.product = backend.cpu_product()
        self._rows_by_bits: dict[int, cpu_int.QuantizedRows] = {}
        if self.product != "fp32":
            # Of all rows: the largest norm, not finite if any entry is not; in bf16 the largest rounding error.
            if self.product in BITS:
                self._largest_norm, self._rounded = float(self._quantized(BITS[self.product]).norm.amax()), 0.0
            else:
                self._largest_norm, self._rounded = _C.largest_norms(self.rows, *self.rows.shape, threads())
            self._largest_bias = float(self.bias.abs().amax())  # NaN, if any is

    def _quantized(self, bits: int) -> cpu_int.QuantizedRows:
        if bits not in self._rows_by_bits:
            self._rows_by_bits = {bits: cpu_int.QuantizedRows(self.rows, bits, tokens=False)}
        return self._rows_by_bits[bits]

    def suited(self, x: Tensor, product: str) -> str:
        """This product, or the next that suits x; rows that are not finite, or may overflow, are computed in fp32."""
        d = x.shape[1]
        if product != "fp32":
            norms = x.norm(dim=1)
            if not (norms * self._largest_norm + self._largest_bias < HUGE).all():
                return _instead("fp32", "overflow", x)
            # Of short rows nearly every feature would be rescored.
            if self._largest_norm < SHORT:
                return _instead("fp32", "short_rows", x)
            if int((norms < SHORT).sum()) > FEW + len(x) // 16:
                return _instead("fp32", "short_tokens", x)
        if product == "int8" and d > cpu_int.WIDEST[8]:
            product = _instead("int16", "too_wide", x)
        elif product == "int8" and self.integers(x[:256], product).bounds.wide(d):
            product = _instead("int16", "wide_bound", x)
        return _instead("fp32", "too_wide", x) if product == "int16" and d > cpu_int.WIDEST[16] else product

    def exact(self, x: Tensor):
        """The operands that candidates of x are rescored with: the addresses of these tensors, not the tensors."""
        return _C.Exact(x, self.rows, self.bias, x.shape[1])

    def integers(self, x: Tensor, product: str) -> cpu_int.IntProduct:
        """The integer product with x; the weights are quantised once."""
        bits = BITS[product]
        packed = self._quantized(bits)
        return cpu_int.IntProduct(x, packed, self.exact(x), self.bias, self._largest_bias, bits)

    def filter(self, block, x: Tensor, product: str) -> bool:
        """Filter every feature's pre-activation for x, in tiles by PyTorch; returns whether the values are exact."""
        exact = product == "fp32"
        block.begin(exact)
        error = None if exact else self._error_in_bf16(x)
        for first, tile in _tiles(x, self.rows, exact):
            block.filter(tile, len(x), tile.shape[1], first, self.bias[first:], error, threads())
        return exact

    def _error_in_bf16(self, x: Tensor) -> Tensor:
        """Error bound of each token's values, [tokens]: x·wᵀ in bf16 plus bias, against fp32.

        x is rounded to x̃ = x − δx and w to w̃ = w − δw, so that |x·w − x̃·w̃| ≤ ‖δx‖·‖w‖ + ‖x̃‖·‖δw‖ (Cauchy-Schwarz),
        with the measured rounding errors. The result is rounded to 8 bits, 2⁻⁸ of at most ‖x̃‖·‖w̃‖. Added: fp32's
        rounding, 2⁻²⁴ an addition, in the product (chains of D, two of them or less), in the rescored values and in
        the norms; that of adding the bias. What is below 2⁻¹²⁶ may be lost anywhere: in squares that takes at most
        √D·2⁻⁶³ off a norm, which TINY covers; in factors, products, sums and results at most √D·2⁻¹²⁶·(‖x‖ + ‖w‖) +
        3D·2⁻¹²⁶, which the products of TINY and the norms cover, and that of TINY and TINY.
        """
        share = (2 * x.shape[1] + 128) * 2.0**-24
        up, tiny = 1 + share, cpu_int.TINY
        off = (x - x.to(torch.bfloat16).to(torch.float32)).norm(dim=1) * up + tiny
        length = x.norm(dim=1) * up + off + tiny
        w_off = self._rounded * up + tiny
        w_length = self._largest_norm * up + w_off + tiny
        return fp32(off * w_length + length * (w_off + w_length * (2.0**-8 + share)) + self._largest_bias * 2.0**-21)


def _instead(product: str, reason: str, x: Tensor) -> str:
    step_stats.fell_back(reason, len(x))
    return product


def _capacity(k: int, product: str) -> int:
    """Slots per token: for candidates between two prunings, those within the error bound of the k-th, and some."""
    slots = {"fp32": 2 * k + 64, "int16": 4 * k + 64, "int8": 16 * k + 768, "bf16": 8 * k + 256}[product]
    return slots + 8 * _C.spare_slots  # two vectors are appended at a time, and a third is written behind them


def _tiles(x: Tensor, w: Tensor, exact: bool) -> Iterator[tuple[int, Tensor]]:
    f, wanted = len(w), torch.float32 if exact else torch.bfloat16
    left = x.to(wanted)
    buffer = torch.empty(len(x) * min(COLS, f), dtype=wanted, device="cpu")
    for first in range(0, f, COLS):
        rows = w[first : first + COLS].to(wanted)
        tile = buffer[: len(x) * len(rows)].view(len(x), len(rows))
        torch.mm(left, rows.T, out=tile)
        yield first, tile
