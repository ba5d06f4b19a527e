"""The encoder's integer product, int16 or int8: two and four times as fast as fp32, and certified.

Rows of both factors are quantised (csrc/cpu/quantize-inl.h), multiplied (int_gemm-inl.h), and filtered while their sums
are in registers. The rounding error of each row is measured and gives the error bound of a product, or in 8 bits the
dither that it is rounded with does; the candidates that the bound leaves open are rescored in fp32. See
docs/design/certified_selection.md and dithered_bound.md.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.ops import scratch
from monosem.ops.backend import native as _C
from monosem.ops.layout import threads
from monosem.ops.selection.dithered import MARGIN
from monosem.ops.structs import EncoderCopy

# Up to this width the sums stay within 32 bits: 127·255·D, and (in 16 bits) the margin of the norm for rounding.
WIDEST = {8: 65_536, 16: 1 << 20}
WIDEST_LIST = 65_536  # a list has 16 bits for a column
# Added to every norm. It covers rows shorter than √kLeastSquare = 1e-15, which the kernel makes zeros; squares that
# underflow, which take at most √D·2⁻⁶³ off a norm; and, where the processor makes zeros of numbers below 2⁻¹²⁶, steps
# whose product it loses: ‖x‖·‖w‖ is below 32512²·2⁻¹²⁶ = 1.3e-29 there, and the bound at least TINY·(‖x‖ + ‖w‖).
TINY = 1e-14
# The int8 error bound of a typical token and feature may be so many times the spread of a product of random directions.
# Beyond that (a few columns far larger than the rest) too much would be rescored, and int16 is faster.
WIDE = 1.0
SAMPLE = 1024  # rows whose median says what is typical


class Usual(NamedTuple):
    """What the columns of tokens usually hold: the values [D], and their norm."""

    values: Tensor
    norm: float


class DitheredFeatures(NamedTuple):
    """The part of the dithered bound that features have: length and error of a typical row, and each beside them."""

    length: float
    error: float
    norm: Tensor
    off: Tensor


class QuantizedRows:
    """Quantised rows [n, D] in panels, and the scale and norms of each: float32, ``start`` int32.

    Args:
        bits: 8 or 16.
        dithered: rounded with the draws of ``dithered.noise`` (in 8 bits), which ``offset`` takes off again.
        copy: the rows quantised before, in their own order; nothing of ``rows`` is read then.
        order: int32 [n], which row stands where in the panels; None: all where they are.
        usual: of the tokens, what is taken off them (in 16 bits): they become lists of the columns that differ.
            Features are packed for those, in columns (no other product reads them), and multiplied with it.

    Attributes:
        order: the one that they stand in.
        along: of features, their products with the usual values.
        count: of tokens, how many pairs of columns stand in their lists; None: in panels.
    """

    def __init__(
        self,
        rows: Tensor,
        bits: int,
        tokens: bool,
        dithered: bool = False,
        copy: EncoderCopy | None = None,
        order: Tensor | None = None,
        usual: Usual | None = None,
    ) -> None:
        n, d = rows.shape
        panels = _C.panels(f"int{bits}", d)
        panel = panels.tokens if tokens else panels.features
        self.n, self.d, self.bits, self.dithered, self.usual = n, d, bits, dithered, usual
        self.padded = -(-n // panel) * panel
        words, numbers = self.padded * panels.words, 4 if usual is None and not dithered else 5
        if copy is not None and len(copy.rows) == words and copy.norms.shape == (numbers, self.padded):
            self.packed, self.known = copy
        else:
            self.packed = scratch.empty((words,), torch.int64 if tokens and usual is not None else torch.int32)
            self.known = torch.empty(numbers, self.padded, dtype=torch.float32, device="cpu")
            copy = None
        self.scale, self.norm, self.off = self.known[:3]
        self.start = self.known[3].view(torch.int32)
        self.offset = self.known[4] if dithered else torch.zeros(self.padded, dtype=torch.float32, device="cpu")
        self.along = self.known[4] if usual is not None and not tokens else None
        self.count = self.known[4].view(torch.int32) if usual is not None and tokens else None
        self.order = order if copy is None else None
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
            offset=self.offset if dithered else None,
            order=order,
            usual=None if usual is None else usual.values,
            count=self.count,
            along=self.along,
            threads=threads(),
        )

    def typical(self, of_rows: Tensor) -> float:
        """The median of a number of each row, over a sample; not of those beyond the last, up to a whole panel."""
        return float(of_rows[: self.n : -(-self.n // SAMPLE) or 1].median())

    def length_and_error(self) -> tuple[Tensor, Tensor]:
        """L and E of each row: a bound on the length of its roundings with dither, and C·s/√12 of its step s."""
        length = (self.norm + self.scale * (0.5 * math.sqrt(self.d))) * (1.001 + _share(self.d)) + TINY
        return length, self.scale * MARGIN + TINY

    @cached_property
    def as_features(self) -> DitheredFeatures:
        both = self.length_and_error()
        # Unless the typical one is next to nothing beside the largest.
        length, error = (max(self.typical(t), float(t[: self.n].amax()) * 1e-4) for t in both)
        return DitheredFeatures(length, error, (both[0] / length).square(), (both[1] / error).square())


class ErrorBounds:
    """Error bound of token r and feature f: ``token[r] + token_off[r]·norm[f] + token_norm[r]·off[f]``."""

    def __init__(self, token: Tensor, token_off: Tensor, token_norm: Tensor, norm: Tensor, off: Tensor) -> None:
        self.token, self.token_off, self.token_norm, self.norm, self.off = token, token_off, token_norm, norm, off
        self.native = _C.ErrorBounds(token=token, token_off=token_off, token_norm=token_norm, norm=norm, off=off)

    @classmethod
    def of(cls, x: QuantizedRows, w: QuantizedRows, largest_bias: float) -> ErrorBounds:
        return (cls.dithered if w.dithered else cls.certain)(x, w, largest_bias)

    @classmethod
    def certain(cls, x: QuantizedRows, w: QuantizedRows, largest_bias: float) -> ErrorBounds:
        """A bound that holds for certain.

        Rounding moves the token by δx and the feature by δw: x·w − x̃·w̃ = δx·w + x̃·δw (Cauchy-Schwarz). Added: the
        rounding of fp32 in sums, norms and the rescored values, 2⁻²⁴ a step over chains of at most D/8 + 48; that of
        adding the bias; and rows so short that they became zeros. Of tokens in lists, x less the usual values o: the
        rounding of x − o, 2⁻²⁴ of it; and of o·w, the rescored value and the bias with o·w, each within ‖o‖·‖w‖.
        """
        share = _share(w.d)
        of_usual = 0.0 if x.usual is None else x.norm * 2.0**-23 + 4 * share * x.usual.norm
        return cls(
            token=torch.full_like(x.norm, _of_bias(largest_bias)),
            token_off=(x.off + x.norm * share + of_usual) * (1 + share) + TINY,
            token_norm=(x.norm + x.off) * (1 + share) + TINY,
            norm=w.norm * (1 + share) + TINY,
            off=(w.off + w.norm * share) * (1 + share) + TINY,
        )

    @classmethod
    def dithered(cls, x: QuantizedRows, w: QuantizedRows, largest_bias: float) -> ErrorBounds:
        """A bound that a pair exceeds with probability 2·10⁻²⁰ (docs/design/dithered_bound.md).

        It is √S with S = (Eₓ·L_w)² + (Lₓ·E_w)², and for any c > 0 at most S/2c + c/2, which is a sum of products of a
        token's and a feature's number; c is √S of the token and a typical feature. Added in the same way: half a unit
        for the rounded offset of the feature; the rounding of fp32, as of the certain bound, and once more for the sums
        of each offset, whose terms add up to at most Lₓ·L_w.
        """
        share = 3 * _share(w.d)
        x_length, x_error = (t.double() for t in x.length_and_error())
        length, error, norm, off = w.as_features
        # Eₓ·E_w is MARGIN² units; and a·b ≤ (a·b₀/2)·(1 + (b/b₀)²) for the other additions.
        half_unit = x_error * error * (0.5 / (2 * MARGIN**2))
        of_fp32 = x_length * length * (share / 2)
        by_x, by_w = (x_error * length).square(), (x_length * error).square()
        c = (by_x + by_w).sqrt()
        return cls(
            token=(c / 2 + half_unit + of_fp32 + _of_bias(largest_bias)).float(),
            token_off=(by_x / (2 * c) + of_fp32).float(),
            token_norm=(by_w / (2 * c) + half_unit).float(),
            norm=norm,
            off=off,
        )

    def wide(self, x: QuantizedRows, w: QuantizedRows) -> bool:
        """Whether a typical error bound exceeds ``WIDE`` of the products' spread, ‖x‖·‖w‖/√D."""
        norm, off, length = (w.typical(t) for t in (self.norm, self.off, w.norm))
        bound = self.token + self.token_off * norm + self.token_norm * off
        spread = (x.norm + TINY) * ((length + TINY) / math.sqrt(w.d))
        return x.typical(bound / spread) > WIDE


def _share(d: int) -> float:
    return (d / 8 + 48) * 2.0**-24


def _of_bias(largest: float) -> float:
    return largest * 2.0**-21 + TINY * TINY


class IntProduct:
    """The integer product of x [n, D] and w [F, D], ready to be computed where all rows have finite norms.

    Attributes:
        norms: of the rows of x, [n], or numbers above them.
    """

    def __init__(self, x: Tensor, w: QuantizedRows, exact, bias: Tensor, largest_bias: float) -> None:
        left = QuantizedRows(x, w.bits, tokens=True, dithered=w.dithered, usual=w.usual)
        self.n, self.exact, self.norms = len(x), exact, left.norm[: len(x)]
        if w.usual is not None:
            self.norms = self.norms + w.usual.norm
        self.bounds = ErrorBounds.of(left, w, largest_bias)
        offsets = torch.full((w.padded,), -torch.inf, dtype=torch.float32, device="cpu")
        offsets[: len(bias)] = bias if w.order is None else bias.index_select(0, w.order)
        if w.along is not None:
            offsets += w.along
        features = torch.arange(w.padded, dtype=torch.int32, device="cpu")
        if w.order is not None:
            features[: w.n] = w.order
        self.tile = _C.IntTile(
            product=f"int{w.bits}",
            x=left.packed,
            w=w.packed,
            count=left.count,
            token_scale=left.scale,
            token_offset=left.offset,
            scale=w.scale,
            start=w.start,
            bias=offsets,
            features=features,
            bounds=self.bounds.native,
            rows=len(x),
            cols=w.padded,
            d=w.d,
        )
        self._kept = left, w, offsets, features, x, bias  # whose addresses the kernels hold
        self._rows = left, w

    def wide(self) -> bool:
        """Whether the bound of a typical pair leaves too much open (``ErrorBounds.wide``)."""
        return self.bounds.wide(*self._rows)

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
