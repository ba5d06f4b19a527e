"""Encode and select on a CPU: pre-activations are computed in cache-sized tiles, filtered there, and never stored.

Five products, by ``backend.cpu_product()``. ``fp32``: exact tiles by PyTorch. ``int8`` and ``int16``, where the
processor has instructions for those, and ``bf16`` by PyTorch, where it is asked for: every feature that the certified
error bound cannot rule out is a candidate and is rescored in fp32, so that the choice is that of the fp32 definition.
``sparse`` takes their place where most columns of most tokens hold what the column usually holds (0 after a ReLU, and
the same number when a bias has been taken off since): a product in int16 of the others alone. Tokens that a product
does not suit (wide error bounds, too many ties) go to the next: int8, int16, fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from monosem.ops import backend, step_stats
from monosem.ops.backend import native as _C
from monosem.ops.layout import fp32, threads
from monosem.ops.selection import cpu_integers
from monosem.ops.structs import EncoderCopy

BITS = {"int8": 8, "int16": 16, "sparse": 16}  # integer products: their bits
FEW = 64  # tokens
LISTED = 64  # tokens: of fewer it is not asked what their columns usually are
LISTED_ANEW = 512  # tokens: so many repay packing the weights for lists where they are packed already
WHOLE, SAMPLE = 4096, 256  # tokens: of so many all are quantised to see whether int8 suits them, of more a sample
HUGE = 1e30  # no sum of values and bounds below this comes near to what fp32 can hold
ROWS, COLS = 1024, 1024  # of a tile by PyTorch, which stays in cache between product and selection
SHORT = 64 * cpu_integers.TINY  # shorter rows are mostly error bound


class Encoder:
    """The encoder's weights, and the product that suits them.

    Args:
        threshold: of each feature, which its entries exceed; None: 0.
        copy: w quantised before (``ops.encoder_copy``), not for lists.
        frequency: of ``ops.topk_encode``; without effect where the copy is used.
    """

    def __init__(
        self,
        w: Tensor,
        b: Tensor,
        threshold: Tensor | None = None,
        copy: EncoderCopy | None = None,
        frequency: Tensor | None = None,
    ) -> None:
        self.rows, self.bias, self._copy = w.contiguous(), fp32(b), copy
        self._frequency = frequency
        self.threshold = None if threshold is None else fp32(threshold)
        # What the product is filtered with. Its rounding, where a threshold is taken off, is in the error bounds.
        self.filtered = self.bias if self.threshold is None else self.bias - self.threshold
        self.product = backend.cpu_product()
        self._usual: cpu_integers.Usual | None = None
        self._packed: tuple[str, cpu_integers.QuantizedRows] | None = None
        self._last: tuple[Tensor, str, cpu_integers.IntProduct] | None = None

    @cached_property
    def _largest_bias(self) -> float:
        """NaN, if any is."""
        largest = float(self.bias.abs().amax())
        return largest if self.threshold is None else largest + float(self.threshold.abs().amax())

    @cached_property
    def _largest_in_bf16(self) -> tuple[float, float]:
        """Of all rows: the largest norm, not finite if any entry is not, and the largest rounding error in bf16."""
        return _C.largest_norms(self.rows, threads())

    def _quantized(self, product: str) -> cpu_integers.QuantizedRows:
        """The rows for this product; those for another are given up."""
        if self._packed is None or self._packed[0] != product:
            self._packed = None
            dithered = product == "int8" and not backend.certain()
            order = None if self._frequency is None else _most_frequent_first(self._frequency)
            copy, usual = (None, self._usual) if product == "sparse" else (self._copy, None)
            rows = cpu_integers.QuantizedRows(self.rows, BITS[product], False, dithered, copy, order, usual)
            self._packed = product, rows
        return self._packed[1]

    def _or_sparse(self, x: Tensor, product: str) -> str:
        """``sparse`` in place of this product, where few of a token's columns differ from what is usual."""
        asked, d = product == "sparse", x.shape[1]
        if d > cpu_integers.WIDEST_LIST:
            return _instead("int16", "too_wide", x) if asked else product
        below = _C.sparse_below(d)
        enough = len(x) >= (LISTED if self._copy is None else LISTED_ANEW)
        if not asked and not (below and enough and backend.free_to_choose()):
            return product
        values = torch.empty(d, dtype=torch.float32, device="cpu")
        if _C.usual_values(x, values) >= below and not asked:
            return product
        self._usual = cpu_integers.Usual(values, float(torch.linalg.vector_norm(values, dtype=torch.float64)))
        return "sparse"

    def suited(self, x: Tensor, product: str) -> str:
        """This product, or the next that suits x; rows that are not finite, or may overflow, are computed in fp32."""
        if product == "fp32":
            return product
        d = x.shape[1]
        if product in BITS:
            product = self._or_sparse(x, product)
        fits = product in BITS and d <= cpu_integers.WIDEST[BITS[product]]
        largest_norm = float(self._quantized(product).norm.amax()) if product in BITS else self._largest_in_bf16[0]
        # Of few enough tokens, what is made to see whether the product suits them is what they are multiplied by then.
        whole = fits and len(x) <= WHOLE
        norms = self.integers(x, product).norms if whole else x.norm(dim=1)
        if not (norms * largest_norm + self._largest_bias < HUGE).all():
            return _instead("fp32", "overflow", x)
        # Of short rows nearly every feature would be rescored.
        if largest_norm < SHORT:
            return _instead("fp32", "short_rows", x)
        if int((norms < SHORT).sum()) > FEW + len(x) // 16:
            return _instead("fp32", "short_tokens", x)
        if product == "int8" and not fits:
            product = _instead("int16", "too_wide", x)
        elif product == "int8" and self.integers(x if whole else x[:SAMPLE], product).wide():
            product = _instead("int16", "wide_bound", x)
        too_wide = BITS.get(product) == 16 and d > cpu_integers.WIDEST[16]
        return _instead("fp32", "too_wide", x) if too_wide else product

    def exact(self, x: Tensor):
        """The operands that candidates of x are rescored with: the addresses of these tensors, not the tensors."""
        return _C.Exact(x=x, w=self.rows, bias=self.bias, threshold=self.threshold)

    def integers(self, x: Tensor, product: str) -> cpu_integers.IntProduct:
        """The integer product with x; the weights are quantised once, and the same x is not made anew."""
        if self._last is not None and self._last[0] is x and self._last[1] == product:
            return self._last[2]
        self._last = None  # the memory of rows in other bits goes first
        packed = self._quantized(product)
        made = cpu_integers.IntProduct(x, packed, self.exact(x), self.filtered, self._largest_bias)
        self._last = x, product, made
        return made

    def filter(self, block, x: Tensor, product: str) -> bool:
        """Filter every feature's pre-activation for x, in tiles by PyTorch; returns whether the values are exact."""
        in_fp32 = product == "fp32"
        exact = in_fp32 and self.threshold is None
        block.begin(exact)
        error = None if exact else self._error_in_fp32(x) if in_fp32 else self._error_in_bf16(x)
        for first, tile in _tiles(x, self.rows, in_fp32):
            block.filter(tile=tile, first=first, bias=self.filtered[first:], error=error, threads=threads())
        return exact

    def _error_in_fp32(self, x: Tensor) -> Tensor:
        """Error bound of each token's values, [tokens]: x·wᵀ in fp32 plus bias less threshold, against rescored ones.

        2⁻²⁴ an addition, of ‖x‖·‖w‖ at most, in the product and in the rescored value; of biases and thresholds.
        """
        share = (2 * x.shape[1] + 128) * 2.0**-24
        longest, of_bias = self._largest_in_fp32
        bound = x.norm(dim=1) * longest * share + of_bias * 2.0**-21 + cpu_integers.TINY
        return fp32(torch.where(bound.isfinite(), bound, torch.inf))

    @cached_property
    def _largest_in_fp32(self) -> tuple[Tensor, Tensor]:
        """The largest norm of a row, and the largest sum of a bias and a threshold, in magnitude."""
        of_bias = self.bias.abs() if self.threshold is None else self.bias.abs() + self.threshold.abs()
        return torch.linalg.vector_norm(self.rows, dim=1, dtype=torch.float32).amax(), of_bias.amax()

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
        up, tiny = 1 + share, cpu_integers.TINY
        off = (x - x.to(torch.bfloat16).to(torch.float32)).norm(dim=1) * up + tiny
        length = x.norm(dim=1) * up + off + tiny
        largest_norm, rounded = self._largest_in_bf16
        w_off = rounded * up + tiny
        w_length = largest_norm * up + w_off + tiny
        return fp32(off * w_length + length * (w_off + w_length * (2.0**-8 + share)) + self._largest_bias * 2.0**-21)


def _most_frequent_first(frequency: Tensor) -> Tensor:
    """Features by their frequency, int32 [F]: as soon as k of a token's largest are met, few others exceed them."""
    order = torch.empty(len(frequency), dtype=torch.int32, device="cpu")
    _C.largest_first(scores=fp32(frequency), order=order)
    return order


def _instead(product: str, reason: str, x: Tensor) -> str:
    step_stats.fell_back(reason, len(x))
    return product


def _tiles(x: Tensor, w: Tensor, exact: bool) -> Iterator[tuple[int, Tensor]]:
    f, wanted = len(w), torch.float32 if exact else torch.bfloat16
    left = x.to(wanted)
    buffer = torch.empty(len(x) * min(COLS, f), dtype=wanted, device="cpu")
    for first in range(0, f, COLS):
        rows = w[first : first + COLS].to(wanted)
        tile = buffer[: len(x) * len(rows)].view(len(x), len(rows))
        torch.mm(left, rows.T, out=tile)
        yield first, tile


def encoder_copy(w: Tensor) -> EncoderCopy | None:
    """Rows w [F, D] as this processor's integer product reads them; None where it multiplies them as they are."""
    product = backend.cpu_product()
    if product not in BITS:
        return None
    dithered = product == "int8" and not backend.certain()
    rows = cpu_integers.QuantizedRows(w.contiguous(), BITS[product], tokens=False, dithered=dithered)
    return EncoderCopy(rows.packed, rows.known)
