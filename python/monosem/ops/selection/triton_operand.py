"""Matrices as the encoder's product on a GPU reads them: in bf16 or int8, with the norms of the rounding errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.kernels.selection import dither, product
from monosem.ops import backend, triton_launch
from monosem.ops.selection import dithered
from monosem.ops.triton_launch import blocks, cdiv

PAD = 64  # the product reads rows padded to a multiple of this


def rounding(d: int) -> float:
    """How far a product of bf16 rows of d and its score in fp32 may be apart, relative to Σ|x·w| ≤ ‖x‖·‖w‖.

    Tensor cores add T products to the sum at once: each of the T + 1 is cut off at 2⁻ᴮ of the largest, then the result
    at 2⁻²³. By published tests of the chips T = 8, B = 24 on Ampere and Ada, which is 5/8 of 2⁻²³ a product; T = 16,
    B = 25 on Hopper and Blackwell, 5/16; CDNA3, in two stages, stays below 7/8; fp32 without tensor cores, 1/2. One a
    product covers them all. The score adds d/BD + log₂ BD of its own at 2⁻²⁴, which the rest and the 64 cover.
    """
    return (d + 64) * 2.0**-23


def rounding_int8(d: int) -> float:
    """The same for int8, whose product is exact: the rotations add 2·15·2⁻²⁴, scales, offsets and the bias some twenty
    times 2⁻²⁴, the offsets' sums a fiftieth of that for each addition in a row, the score d/BD + log₂ BD."""
    return (d / 256 + 64) * 2.0**-23


@dataclass(frozen=True)
class Operand:
    """A matrix in the product's dtype, and the rounding of its rows (scale and offset: of int8)."""

    rows: Tensor
    length: Tensor
    error: Tensor
    scale: Tensor | None = None
    offset: Tensor | None = None

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The operands of a product's error bound."""
        return self.length, self.error

    @property
    def dither(self) -> tuple[Tensor | None, Tensor | None]:
        """The operands that turn int8 products into numbers."""
        return self.scale, self.offset


def operand_of(t: Tensor, dtype: torch.dtype, side: int) -> Operand:
    n, d = t.shape
    if dtype == torch.int8:
        rows, known = torch.empty(n, dithered.padded(d), dtype=dtype, device=t.device), _floats(4, n, device=t.device)
        _quantize_into(rows, known, t, side)
        return Operand(rows, *known)
    width = cdiv(d, PAD) * PAD
    copy = t.dtype != dtype or width != d
    rows = torch.empty(n, width, dtype=dtype, device=t.device) if copy else t
    length, error = (_floats(n, device=t.device) for _ in range(2))
    kernel = product.round_rows
    options = blocks(kernel, d, t)
    triton_launch.run(kernel, cdiv(n, options["R"]), t, rows, length, error, n, d, width, COPY=copy, **options)
    return Operand(rows, length, error)


def _floats(*shape: int, device: torch.device) -> Tensor:
    return torch.empty(*shape, dtype=torch.float32, device=device)


def _quantize_into(rows: Tensor, known: Tensor, t: Tensor, side: int) -> None:
    (n, d), width, kernel = t.shape, rows.shape[1], dither.quantize_rows
    options = blocks(kernel, width, t)
    options |= {"SIDE": side, "BITS": dithered.rotation_bits(width)}
    triton_launch.run(kernel, cdiv(n, options["R"]), t, rows, known, n, d, width, **options)


def in_int8(w: Tensor) -> bool:
    """Whether the product is one of dithered int8 rows: asked for, or measured to be faster on this GPU."""
    asked, d = backend.gpu_product(), w.shape[1]
    if d > dithered.WIDEST or asked in ("fp32", "bf16"):
        return False
    return asked == "int8" or blocks("product", d, w)["kind"] == "int8"


def copy_dtype(w: Tensor) -> torch.dtype | None:
    """Of the copy of w that its product reads; None where that reads w itself."""
    if backend.gpu_product() == "fp32":
        return None
    return torch.int8 if in_int8(w) else torch.bfloat16


def empty_copy(w: Tensor) -> tuple[Tensor, Tensor] | None:
    """Arrays for w [F, D] as its product reads it, and for the norms of its rows: zeros, to be written by
    ``row_adam_`` or ``round_into``. None where products are in fp32."""
    if (dtype := copy_dtype(w)) is None:
        return None
    f, d = w.shape
    width, known = (dithered.padded(d), 4) if dtype == torch.int8 else (cdiv(d, PAD) * PAD, 2)
    copy = torch.zeros(f, width, dtype=dtype, device=w.device)
    return copy, torch.zeros(known, f, dtype=torch.float32, device=w.device)


def round_into(copy: Tensor, norms: Tensor, w: Tensor) -> None:
    """Write w [F, D] to arrays of ``empty_copy``."""
    if copy.dtype == torch.int8:
        return _quantize_into(copy, norms, w, dithered.FEATURE)
    kernel = product.round_rows
    n, d = w.shape
    options = blocks(kernel, d, w)
    triton_launch.run(
        kernel, cdiv(n, options["R"]), w, copy, norms[0], norms[1], n, d, copy.shape[1], COPY=True, **options
    )


def operand(copy: Tensor | None, norms: Tensor | None) -> Operand | None:
    if copy is None or norms is None or backend.gpu_product() == "fp32":
        return None
    return Operand(copy, *norms)
