"""TopK on a CPU: pre-activations are computed in cache-sized tiles, filtered there, and never stored."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import step_stats
from monosem.ops.backend import native as _C
from monosem.ops.layout import fp32, threads
from monosem.ops.selection.cpu import BITS, ROWS, Encoder
from monosem.ops.structs import EncoderCopy

FEW = 64  # tokens
SLOT_BYTES = 64 << 20  # the candidates' buffer of a block of tokens stays below this, whatever k


def topk_encode(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    k: int,
    copy: Tensor | None = None,
    norms: Tensor | None = None,
    frequency: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``reference.topk_encode`` with nothing of size tokens × F."""
    values, indices = (
        torch.empty(len(x), k, dtype=torch.float32, device="cpu"),
        torch.empty(len(x), k, dtype=torch.int32, device="cpu"),
    )
    encoder = Encoder(w, b, copy=EncoderCopy.of(copy, norms), frequency=frequency)
    redone = _topk(encoder, fp32(x), k, encoder.product, values, indices)
    step_stats.redone(redone)
    return values.to(x.dtype), indices


def _topk(encoder: Encoder, x: Tensor, k: int, product: str, values: Tensor, indices: Tensor) -> int:
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
    encoder: Encoder, x: Tensor, k: int, product: str, values: Tensor, indices: Tensor
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


def _capacity(k: int, product: str) -> int:
    """Slots per token: for candidates between two prunings, those within the error bound of the k-th, and some."""
    in_16_bits = 4 * k + 64
    slots = {
        "fp32": 2 * k + 64,
        "int16": in_16_bits,
        "sparse": in_16_bits,
        "int8": 16 * k + 768,
        "bf16": 8 * k + 256,
    }
    return slots[product] + 8 * _C.spare_slots  # two vectors are appended at a time, and a third is written behind them
