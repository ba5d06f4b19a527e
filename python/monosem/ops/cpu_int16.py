"""The encoder's product in 16-bit whole numbers: on AVX2 twice as fast as in fp32, and ten times closer than bf16.

Rows of both factors are rounded with a step of ‖row‖/32512 (csrc/cpu/int16_product.inc). Features are rounded a chunk
at a time, multiplied, and searched while their sums are in registers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monosem.ops.backend import native as _C
from monosem.ops.cpu_rows import threads

NORM = 32_512.0  # of a rounded row; kInt16Norm in the kernel
WIDEST = 1 << 20  # up to this width NORM leaves room for the rounding of a norm in fp32
TINY = 1e-15  # rows shorter than this become zeros; √kLeastSquare in the kernel
CHUNK_BYTES = 4 << 20  # of rounded features at a time: in the last cache that the cores share
BLOCK_BYTES = 8 << 20  # of rounded tokens at a time


def rows_at_a_time(d: int) -> int:
    """Tokens of a block: enough that rounding w anew for each does not show."""
    return min(4096, max(1024, BLOCK_BYTES // (2 * d)))


def margin(norms: Tensor, longest: float, largest_bias: float, d: int) -> Tensor:
    """How far the value of a token of this norm may be off: float32 [n].

    Rounding moves a row by at most ε = √D/(2·32512) of its norm, so a product by (2ε + ε²)·‖x‖·‖w‖ (Cauchy-Schwarz).
    Added: the rounding of fp32 in the survivors' scores and in the norms, 2⁻²⁴ a step over chains of at most D/8 + 32;
    that of adding the bias; and rows so short that they became zeros.
    """
    epsilon = math.sqrt(d) / (2 * NORM)
    share = 2 * epsilon + epsilon**2 + (d / 8 + 32) * 2.0**-24
    return norms * (longest * share + TINY) + (longest * TINY + largest_bias * 2.0**-22)


def offer(block, x: Tensor, w: Tensor, dtype: int, bias: Tensor, margins: Tensor) -> None:
    """Show every feature's value for x [n, D] to the block. All rows of x and w have finite norms."""
    d, panels = w.shape[1], _C.int16_panels()
    left, left_scale = _pack(x, 0, panels[0])
    block.begin()
    step = max(1, CHUNK_BYTES // (2 * d * panels[1])) * panels[1]
    for first in range(0, len(w), step):
        rows = w[first : first + step]
        right, right_scale = _pack(rows, dtype, panels[1])
        offsets = torch.full((len(right_scale),), -torch.inf)
        offsets[: len(rows)] = bias[first : first + step]
        tile = _C.Int16Tile(
            left.data_ptr(), right.data_ptr(), left_scale.data_ptr(), right_scale.data_ptr(), offsets.data_ptr(),
            margins.data_ptr(), len(x), len(right_scale), d, first,
        )  # fmt: skip
        block.int16(tile, threads())


def _pack(rows: Tensor, dtype: int, panel: int) -> tuple[Tensor, Tensor]:
    """Rounded rows, in whole panels of pairs of columns, and the step of each row."""
    count, d = rows.shape
    padded = -(-count // panel) * panel
    packed, scale = torch.empty(padded * (d + d % 2), dtype=torch.int16), torch.empty(padded)
    _C.int16_pack(
        rows.data_ptr(), dtype, count, d, panel, packed.data_ptr(), scale.data_ptr(), threads()
    )  # fmt: skip
    return packed, scale
