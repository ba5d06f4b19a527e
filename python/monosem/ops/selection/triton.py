"""x·wᵀ + b on its way to candidates, by the Triton kernels of ``kernels/selection``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monosem.kernels.launch import power2
from monosem.kernels.selection import product, score, sift
from monosem.ops import backend, gpu, step_stats, triton_launch
from monosem.ops.precision import summed_in_fp32
from monosem.ops.selection import dithered
from monosem.ops.selection.triton_operand import Operand, in_int8, operand_of, rounding, rounding_int8
from monosem.ops.selection.triton_plan import SLAB, Plan
from monosem.ops.triton_launch import architecture, blocks, cdiv

LOOSE = ("hits", "int8")  # forms whose candidates are products, not yet bounds


class Problem:
    """x·wᵀ + b on its way to candidates.

    Args:
        threshold: of each feature, [F], which its entries exceed; None: 0, or there is none.
    """

    def __init__(
        self,
        x: Tensor,
        w: Tensor,
        b: Tensor,
        right: Operand | None = None,
        form: str = "scan",
        threshold: Tensor | None = None,
    ) -> None:
        self.x, self.w, self.b = x.contiguous(), w.contiguous(), b.contiguous()
        self.threshold = None if threshold is None else threshold.contiguous()
        # What products are filtered with: bias less threshold. ``collect_above`` has room for its rounding.
        self.filtered = self.b if threshold is None else self.b.float() - threshold.float()
        self.n, self.d, self.f = len(x), x.shape[1], len(w)
        low = backend.gpu_product() != "fp32" or x.dtype == torch.bfloat16
        self.dithered = form == "int8"
        self.product = "int8" if self.dithered else "bf16" if low else "fp32"
        dtype = torch.int8 if self.dithered else torch.bfloat16 if low else torch.float32
        # Triton's interpreter cannot multiply bf16: there the factors are rounded to bf16 all the same.
        self.fp32 = not low or gpu.interpreted()
        self.element = dtype.itemsize
        self.rounding = rounding_int8(self.d) if self.dithered else rounding(self.d)
        self.left = operand_of(self.x, dtype, dithered.TOKEN)
        if right is None or right.rows.dtype != dtype:
            right = operand_of(self.w, dtype, dithered.FEATURE)
        self.right = right
        self.width = self.left.rows.shape[1]

    def report(self, selected: dict[str, Tensor]) -> None:
        """Count these tokens in the statistics of the step."""
        if step_stats.current() is None:
            return
        counts = (selected["count"].sum(), selected["scored"].sum()) if step_stats.timed() else ()
        step_stats.encoded(self.product, self.n, *counts)
        step_stats.redone(selected["redone"][0])

    def thresholds(self, plan: Plan) -> Tensor:
        """A threshold for each row from a sample of the features."""
        sampled = self.sample(plan.sample)
        threshold = torch.empty(self.n, dtype=torch.float32, device=self.x.device)
        kernel = score.set_threshold
        largest = (known.amax() for known in self.right.bounds)
        args = sampled, *self.left.bounds, *largest, threshold, plan.sample, self.rounding, plan.j, plan.j_most
        options = {"BS": power2(plan.sample), "DITHERED": self.dithered, **blocks(kernel, plan.sample, self.x)}
        triton_launch.run(kernel, self.n, *args, **options)
        return threshold

    def sample(self, size: int) -> Tensor:
        out = torch.empty(self.n, size, dtype=torch.float32, device=self.x.device)
        options = blocks(product.sample, self.element, self.x)
        grid = cdiv(self.n, options["BM"]) * cdiv(size, options["BN"])
        factors = self.left.rows, self.right.rows, self.b, *self.left.dither, *self.right.dither
        args = *factors, out, self.n, size, self.f // size, self.width
        triton_launch.run(product.sample, grid, *args, FP32=self.fp32, **options)
        return out

    def collect(self, threshold: Tensor, slots: int, everything: bool, loose: bool = False) -> tuple[Tensor, Tensor]:
        """Keys and their number; with ``loose``, of products instead of upper bounds."""
        keys = torch.empty(self.n, slots, dtype=torch.int64, device=self.x.device)
        count = torch.full((self.n,), self.f if everything else 0, dtype=torch.int32, device=self.x.device)
        options = blocks("collect_hits" if loose else "collect", self.element, self.x)
        grid = cdiv(self.n, options["BM"]) * cdiv(self.f, options["BN"])
        left, right = self.left, self.right
        known = *left.bounds, *left.dither, *right.bounds, *right.dither
        args = (
            left.rows,
            right.rows,
            self.filtered,
            *known,
            threshold,
            keys,
            count,
            self.n,
            self.f,
            self.width,
            self.rounding,
        )
        portable = not architecture(self.x).startswith("sm_")
        options |= {"CAP": slots, "ALL": everything, "LOOSE": loose, "FP32": self.fp32, "PORTABLE": portable}
        triton_launch.run(product.collect, grid, *args, **options)
        return keys, count

    def collect_above(self, slots: int, loose: bool) -> tuple[Tensor, Tensor]:
        """Keys and number of the features that may be above their thresholds, or above 0."""
        least = torch.zeros(self.n, dtype=torch.float32, device=self.x.device)
        if self.threshold is not None:
            # 2⁻²⁴ each: of b − θ, of x·w + b, and of θ beside it. Where b or θ is infinite, so is b − θ, or NaN.
            size = self.b.float().abs() + self.threshold.float().abs()
            least = least - torch.where(size < math.inf, size, 0).amax() * 2.0**-21
        return self.collect(least, slots, False, loose)

    def sift(self, slots: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, their number and the threshold that all else is not above: products a block of features at a time."""
        device = self.x.device
        keys = torch.empty(self.n, slots, dtype=torch.int64, device=device)
        count = torch.zeros(self.n, dtype=torch.int32, device=device)
        threshold = torch.full((self.n,), -math.inf, dtype=torch.float32, device=device)
        most = torch.stack([self.right.length.amax(), self.right.error.amax()])
        slab = torch.empty(self.n, min(SLAB, self.f), dtype=torch.bfloat16, device=device)
        kernel = sift.sift
        for first in range(0, self.f, SLAB):
            features = self.right.rows[first : first + SLAB]
            _multiply(self.left.rows, features, slab[:, : len(features)])
            known = *self.left.bounds, *self.right.bounds, most
            args = slab, self.b, *known, keys, count, threshold, first, len(features), slab.shape[1], self.rounding, k
            triton_launch.run(kernel, self.n, *args, CAP=slots, BN=SLAB, **blocks(kernel, slots, self.x))
        return keys, count, threshold

    def score(self, listed: Tensor, end: Tensor, exact: Tensor) -> None:
        kernel = score.score
        args = self.x, self.w, self.b, listed, end, exact, self.d
        triton_launch.run(kernel, self.n, *args, CAP=listed.shape[1], **blocks(kernel, self.d, self.x))


def form_at(x: Tensor, w: Tensor, choice: str = "select") -> str:
    """How candidates are found: the best form at this width on this GPU. Products in fp32 have one way."""
    if backend.gpu_product() == "fp32" and x.dtype != torch.bfloat16:
        return "scan"
    return "int8" if in_int8(w) else blocks(choice, w.shape[1], x)["form"]


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """left · rightᵀ in bf16, summed in fp32 and rounded once."""
    if gpu.interpreted():  # PyTorch's own product on CPUs need not
        out.copy_(left.float() @ right.float().T)
        return
    with summed_in_fp32():
        torch.mm(left, right.T, out=out)
