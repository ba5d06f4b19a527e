"""Rows in 8 bits by Hadamard rotation and subtractive dither: the definition of ``kernels/selection/dither.py``.

Proof of the bound: ``docs/design/dithered_bound.md``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monosem.ops.precision import as_given

LEVELS = 126.5
MARGIN = 9.6 / math.sqrt(12) * 1.01
TINY = 1e-14
TOKEN, FEATURE = 0, 1
_SEEDS = 0x3C6EF372, 0x1B873593
WIDEST = 8192  # columns: one program rotates a whole row in its registers
GROUP = 128  # columns; rows are padded to a multiple


def padded(d: int) -> int:
    """Columns of a row of d in 8 bits."""
    return -(-d // GROUP) * GROUP


def rotation_bits(width: int) -> int:
    """The rotation works on blocks of 2^bits columns: the largest power of two that divides the width."""
    return (width & -width).bit_length() - 1


def _mixed(h: Tensor) -> Tensor:
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


def _columns(width: int, seed: int, device: torch.device) -> Tensor:
    return _mixed((torch.arange(width, device=device) + seed) & 0xFFFFFFFF)


def noise(width: int, side: int, device: torch.device) -> Tensor:
    """The dither u of each column, float64 in [−½, ½)."""
    h = _mixed((_columns(width, _SEEDS[side], device) + 0x51ED270B) & 0xFFFFFFFF)
    return (h >> 8).double() * 2.0**-24 - 0.5


def rotate(rows: Tensor) -> Tensor:
    """Rows [n, width] with a sign for each column, times Hadamard's matrix on blocks. Products and lengths stay."""
    n, width = rows.shape
    bits = rotation_bits(width)
    signs = 1 - 2 * (_columns(width, 0x6A09E667, rows.device) >> 16 & 1)
    v = rows * signs.to(rows.dtype)
    for level in range(bits):
        a, b = v.view(n, -1, 2, 1 << level).unbind(2)
        v = torch.stack([a + b, a - b], dim=2).view(n, width)
    return v * 2.0 ** (-0.5 * bits)


def quantize(rows: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """int8 rows [n, width], and length, error, scale and offset of each, [4, n] (``kernels/selection/dither.py``).

    Args:
        rows: [n, d], float32 or float64.
        side: TOKEN or FEATURE.
    """
    wide = torch.nn.functional.pad(rows, (0, padded(rows.shape[1]) - rows.shape[1]))
    width = wide.shape[1]
    turned = rotate(wide)
    most = turned.abs().amax(1)
    scale = torch.where(most > 1e-30, most / LEVELS, 0.0)
    mine, other = (noise(width, s, rows.device).to(rows.dtype) for s in (side, 1 - side))
    level = (turned * torch.where(most > 1e-30, LEVELS / most, 0.0)[:, None] + mine + 0.5).floor()
    some = (rows != 0).any(1) * TINY
    length = (rows.norm(dim=1) + 0.5 * math.sqrt(width) * scale) * 1.001 + some
    offset = (level * other).sum(1) * scale if side == FEATURE else ((level - mine) * other).sum(1)
    good = rows.isfinite().all(1)  # of other rows every product is NaN, and they are computed in fp32
    scale = torch.where(good, scale, torch.nan)
    return level.where(good[:, None], 0).to(torch.int8), torch.stack([length, scale * MARGIN + some, scale, offset])


@as_given
def product(x: tuple[Tensor, Tensor], w: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """x̃·w̃ [n, F] of two sides' rows in 8 bits, in float64, and how far x·w may be above it, rounding of fp32 aside."""
    (q, left), (p, right) = x, w
    length, error, scale, offset = left.double()[:, :, None]
    w_length, w_error, w_scale, w_offset = right.double()[:, None, :]
    value = scale * (w_scale * (q.double() @ p.double().T - offset) - w_offset)
    return value, ((w_length * error).square() + (length * w_error).square()).sqrt()
