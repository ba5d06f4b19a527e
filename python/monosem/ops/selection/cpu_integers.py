"""The encoder's integer product, int16 or int8: two and four times as fast as fp32, and certified.

Rows of both factors are quantised (csrc/cpu/quantize-inl.h), multiplied (int_gemm-inl.h), and filtered while their sums
are in registers. The rounding error of each row is measured and gives the error bound of a product; the candidates that
the bound leaves open are rescored in fp32. See docs/design/certified_selection.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monosem.ops.backend import native as _C
from monosem.ops.layout import threads
from monosem.ops.structs import EncoderCopy

# Up to this width the sums stay within 32 bits: 127·255·D, and (in 16 bits) the margin of the norm for rounding.
WIDEST = {8: 65_536, 16: 1 << 20}
# Added to every norm. It covers rows shorter than √kLeastSquare = 1e-15, which the kernel makes zeros; squares that
# underflow, which take at most √D·2⁻⁶³ off a norm; and, where the processor makes zeros of numbers below 2⁻¹²⁶, steps
# whose product it loses: ‖x‖·‖w‖ is below 32512²·2⁻¹²⁶ = 1.3e-29 there, and the bound at least TINY·(‖x‖ + ‖w‖).
TINY = 1e-14
# The int8 error bound of a typical token and feature may be so many times the spread of a product of random directions.
# Beyond that (a few columns far larger than the rest) too much would be rescored, and int16 is faster.
WIDE = 1.0


class QuantizedRows:
    """Quantised rows [n, D] in panels, and the scale and norms of each: float32, ``start`` int32."""

    def __init__(self, rows: Tensor, bits: int, tokens: bool, copy: EncoderCopy | None = None) -> None:
        n, d = rows.shape
        panel = _C.panels()[0 if tokens else 1]
        self.padded = -(-n // panel) * panel
        words = self.padded * -(-d // (32 // bits))
        if copy is not None and len(copy.rows) == words and copy.norms.shape == (4, self.padded):
            self.packed, self.known = copy
        else:
            self.packed = torch.empty(words, dtype=torch.int32, device="cpu")
            self.known = torch.empty(4, self.padded, dtype=torch.float32, device="cpu")
            copy = None
        self.scale, self.norm, self.off = self.known[:3]
        self.start = self.known[3].view(torch.int32)
        if copy is not None:
            return  # these are the rows, quantised before
        _C.quantize(
            product=f"int{bits}",
            rows=rows,
            tokens=tokens,
            packed=self.packed,
            scale=self.scale,
            norm=self.norm,
            off=self.off,
            start=self.start,
            threads=threads(),
        )


class ErrorBounds:
    """Error bound of token r and feature f: ``token[r] + token_off[r]·norm[f] + token_norm[r]·off[f]``.

    Rounding moves the token by δx and the feature by δw: x·w − x̃·w̃ = δx·w + x̃·δw (Cauchy-Schwarz). Added: the rounding
    of fp32 in sums, norms and the rescored values, 2⁻²⁴ a step over chains of at most D/8 + 48; that of adding the
    bias; and rows so short that they became zeros.
    """

    def __init__(self, x: QuantizedRows, w: QuantizedRows, d: int, largest_bias: float) -> None:
        share = (d / 8 + 48) * 2.0**-24
        self.token = torch.full_like(x.norm, largest_bias * 2.0**-21 + TINY * TINY)
        self.token_off = (x.off + x.norm * share) * (1 + share) + TINY
        self.token_norm = (x.norm + x.off) * (1 + share) + TINY
        self.norm = w.norm * (1 + share) + TINY
        self.off = (w.off + w.norm * share) * (1 + share) + TINY
        self.native = _C.ErrorBounds(
            token=self.token, token_off=self.token_off, token_norm=self.token_norm, norm=self.norm, off=self.off
        )

    def wide(self, d: int) -> bool:
        """Whether a typical error bound exceeds ``WIDE`` of the products' spread, ‖x‖·‖w‖/√D."""
        share = (self.token_off / self.token_norm).median() + (self.off / self.norm).median()
        return float(share) * math.sqrt(d) > WIDE


class IntProduct:
    """The integer product of x [n, D] and w [F, D], ready to be computed. All rows have finite norms."""

    def __init__(self, x: Tensor, w: QuantizedRows, exact, bias: Tensor, largest_bias: float, bits: int) -> None:
        d, left = x.shape[1], QuantizedRows(x, bits, tokens=True)
        self.n, self.exact = len(x), exact
        self.bounds = ErrorBounds(left, w, d, largest_bias)
        offsets = torch.full((w.padded,), -torch.inf, dtype=torch.float32, device="cpu")
        offsets[: len(bias)] = bias
        self.tile = _C.IntTile(
            product=f"int{bits}",
            x=left.packed,
            w=w.packed,
            token_scale=left.scale,
            scale=w.scale,
            start=w.start,
            bias=offsets,
            bounds=self.bounds.native,
            rows=len(x),
            cols=w.padded,
            d=d,
        )
        self._kept = left, w, offsets, x, bias  # whose addresses the kernels hold

    def topk(self, k: int, capacity: int, values: Tensor, indices: Tensor) -> tuple[list[int], tuple[int, int]]:
        """Fill in values and indices [n, k]; returns the tokens of which too much lay within the error bound, and how
        many candidates there were and were rescored."""
        flags = torch.empty(self.n, dtype=torch.uint8, device="cpu")
        counts = _C.int_topk(
            tile=self.tile,
            exact=self.exact,
            k=k,
            capacity=capacity,
            values=values,
            indices=indices,
            flags=flags,
            threads=threads(),
        )
        return flags.nonzero()[:, 0].tolist(), counts

    def threshold(self, block) -> tuple[int, int]:
        """Give the block the active features, scored in fp32; returns the candidates, and those rescored."""
        block.begin(False)
        return block.integers(self.tile, self.exact, threads())
