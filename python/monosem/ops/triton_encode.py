"""Encode and select by Triton: what ``kernels/topk_encode.py`` and ``threshold_encode.py`` need around them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from monosem.kernels import launch, product, sift, topk_encode
from monosem.kernels.launch import power2
from monosem.ops import backend, dithered, gpu, reference, step_stats
from monosem.ops.precision import summed_in_fp32
from monosem.ops.triton_launch import architecture, blocks, cdiv, run
from monosem.ops.triton_operand import Operand, in_int8, operand, rounded, rounding, rounding_int8

MOST_SLOTS = 8192  # candidates a row that one program can hold
CHANCE = 1e-9  # of a row that has to be done again, by the rule that sets the threshold
BUFFER_BYTES = 128 << 20  # for candidates, but at most an eighth of the weights; more tokens are taken in turn,
LEAST_BYTES = 64 << 20  # which may have so much though: 4,096 tokens at the shape of GPT-2, of which they take 40 MB,
FEWEST_ROWS = 1024  # and at least so many at a time
ROWS_TOGETHER = 128  # rows of a tile: of parts that are no multiple of it, the last tile is wasted
SLAB = 2048  # features a product of its own, where products go through memory
SPACE_BYTES = 16 << 20  # for the rows that are done again, which are few, but at most a sixteenth of the weights
MOST_EMITTERS = 512  # programs that write what was done again
LOOSE = ("hits", "int8")  # forms whose candidates are products, not yet bounds
DENSE_BYTES = 256 << 20  # for pieces of tokens × features where k is larger than any plan


@dataclass(frozen=True)
class Plan:
    """How a row of F pre-activations is cut down to candidates.

    Attributes:
        slots: room for candidates, a power of two; all F of them when ``everything``.
        sample: columns that the threshold is set from.
        j, j_most: ranks in the sample between which the threshold is.
        form: how candidates are found, see ``monosem.kernels.launch.FORMS``.
    """

    slots: int
    everything: bool
    sample: int = 0
    j: int = 0
    j_most: int = 0
    form: str = "scan"

    def listed(self, k: int) -> int:
        """Of the slots, how many may be scored; a row that would need more is done again."""
        return self.slots if self.everything else min(self.slots, max(128, 4 * power2(k)))

    def bytes(self, k: int) -> int:
        """Memory that a row needs at once."""
        before = 2 * SLAB if self.form == "slab" else 0
        return max(self.slots * 8 + max(self.listed(k) * 12, before), self.sample * 4)


def _poisson_tail(mean: float, n: int) -> float:
    """P(X ≥ n) for X ~ Poisson(mean), without losing small ones."""
    total, term = 0.0, math.exp(-mean + n * math.log(mean) - math.lgamma(n + 1))
    while term > total * 1e-12:
        total += term
        n += 1
        term *= mean / n
    return min(1.0, total)


@cache
def plan(f: int, k: int) -> Plan | None:
    """The cheapest plan, or None when k is too large for any: then rows are sorted, a few at a time.

    The sample's columns are spread evenly, so the number of the k largest among them is close to Poisson with mean
    k·sample/F. With j such that this number reaches j once in 1/CHANCE, the j-th of the sample lets k or more through;
    with j_most such that the ``slots`` largest have fewer than j_most in the sample as rarely, there is room.
    """
    if power2(f) <= max(2048, 4 * power2(k)):
        return Plan(power2(f), True) if power2(f) <= MOST_SLOTS else None
    for slots in (1024, 2048, 4096, 8192):
        for sample in (256, 512, 1024, 2048, 4096, 8192):
            if sample > f // 4 or slots < 2 * k:
                continue
            rate = sample / f
            j = next(j for j in range(1, slots) if _poisson_tail(k * rate, j) <= CHANCE)
            j_most = max((j for j in range(1, sample) if 1 - _poisson_tail(slots * rate, j) <= CHANCE), default=0)
            if j_most >= 2 * j:  # room for the margin too
                return Plan(slots, False, sample, j, j_most)
    return None


def formed(chosen: Plan, k: int, form: str) -> Plan:
    """The plan, with candidates found in this form."""
    if chosen.everything:
        return chosen
    if form == "slab":  # no sample; room for what is within the margin of the k-th
        return Plan(min(chosen.slots, max(1024, 4 * power2(k))), False, form=form)
    return replace(chosen, form=form)


class Problem:
    """x·wᵀ + b on its way to candidates."""

    def __init__(self, x: Tensor, w: Tensor, b: Tensor, right: Operand | None = None, form: str = "scan") -> None:
        self.x, self.w, self.b = x.contiguous(), w.contiguous(), b.contiguous()
        self.n, self.d, self.f = len(x), x.shape[1], len(w)
        low = backend.gpu_product() != "fp32" or x.dtype == torch.bfloat16
        self.dithered = form == "int8"
        self.product = "int8" if self.dithered else "bf16" if low else "fp32"
        dtype = torch.int8 if self.dithered else torch.bfloat16 if low else torch.float32
        # Triton's interpreter cannot multiply bf16: there the factors are rounded to bf16 all the same.
        self.fp32 = not low or gpu.interpreted()
        self.element = dtype.itemsize
        self.rounding = rounding_int8(self.d) if self.dithered else rounding(self.d)
        self.left = rounded(self.x, dtype, dithered.TOKEN)
        if right is None or right.rows.dtype != dtype:
            right = rounded(self.w, dtype, dithered.FEATURE)
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
        kernel = topk_encode.set_threshold
        run(
            kernel, self.n, sampled, self.left.length, self.left.error, self.right.length.amax(),
            self.right.error.amax(), threshold, plan.sample, self.rounding, plan.j, plan.j_most, BS=power2(plan.sample),
            DITHERED=self.dithered, **blocks(kernel, plan.sample, self.x),
        )  # fmt: skip
        return threshold

    def sample(self, size: int) -> Tensor:
        out = torch.empty(self.n, size, dtype=torch.float32, device=self.x.device)
        options = blocks(product.sample, self.element, self.x)
        grid = cdiv(self.n, options["BM"]) * cdiv(size, options["BN"])
        run(
            product.sample, grid, self.left.rows, self.right.rows, self.b, self.left.scale, self.left.offset,
            self.right.scale, self.right.offset, out, self.n, size, self.f // size, self.width, FP32=self.fp32,
            **options,
        )  # fmt: skip
        return out

    def collect(self, threshold: Tensor, slots: int, everything: bool, loose: bool = False) -> tuple[Tensor, Tensor]:
        """Keys and their number; with ``loose``, of products instead of upper bounds."""
        keys = torch.empty(self.n, slots, dtype=torch.int64, device=self.x.device)
        count = torch.full((self.n,), self.f if everything else 0, dtype=torch.int32, device=self.x.device)
        options = blocks("collect_hits" if loose else "collect", self.element, self.x)
        grid = cdiv(self.n, options["BM"]) * cdiv(self.f, options["BN"])
        left, right = self.left, self.right
        run(
            product.collect, grid, left.rows, right.rows, self.b, left.length, left.error, left.scale, left.offset,
            right.length, right.error, right.scale, right.offset, threshold, keys, count, self.n, self.f, self.width,
            self.rounding, CAP=slots, ALL=everything, LOOSE=loose, FP32=self.fp32,
            PORTABLE=not architecture(self.x).startswith("sm_"), **options,
        )  # fmt: skip
        return keys, count

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
            run(
                kernel, self.n, slab, self.b, self.left.length, self.left.error, self.right.length, self.right.error,
                most, keys, count, threshold, first, len(features), slab.shape[1], self.rounding, k, CAP=slots, BN=SLAB,
                **blocks(kernel, slots, self.x),
            )  # fmt: skip
        return keys, count, threshold

    def score(self, listed: Tensor, end: Tensor, exact: Tensor) -> None:
        kernel = topk_encode.score
        run(
            kernel, self.n, self.x, self.w, self.b, listed, end, exact, self.d, CAP=listed.shape[1],
            **blocks(kernel, self.d, self.x),
        )  # fmt: skip


def form_at(x: Tensor, w: Tensor, choice: str = "select") -> str:
    """How candidates are found: what is best at this width on this GPU. Products in fp32 have one way."""
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


def topk(
    x: Tensor, w: Tensor, b: Tensor, k: int, copy: Tensor | None = None, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``reference.topk_encode`` with nothing of size tokens × F, and no host synchronisation."""
    chosen = plan(len(w), k)
    if chosen is None:
        step_stats.fell_back("large_k", len(x))
        step_stats.encoded("fp32", len(x))
        return _sorted_pieces(x, w, b, k)
    values = torch.empty(len(x), k, dtype=torch.float32, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int32, device=x.device)
    chosen = formed(chosen, k, form_at(x, w))
    buffer = min(BUFFER_BYTES, max(LEAST_BYTES, w.numel() * 4 // 8))
    rows = max(FEWEST_ROWS, buffer // chosen.bytes(k))
    rows = cdiv(len(x), max(1, cdiv(len(x), rows)))  # shares of the same size
    rows = max(1, cdiv(rows, ROWS_TOGETHER)) * ROWS_TOGETHER
    right = operand(copy, norms)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        problem = Problem(x[part], w, b, right, chosen.form)
        right = problem.right
        problem.report(_select(problem, chosen, k, values[part], indices[part]))
    return values.to(x.dtype), indices


@torch.no_grad()
def candidates(x: Tensor, w: Tensor, b: Tensor, k: int) -> dict[str, float]:
    """What selection costs on these tokens, and what it would get wrong if the product in bf16 were believed.

    Returns:
        ``slots`` per token, mean ``collected`` (above the threshold) and mean ``scored`` in fp32 per token,
        ``redone``: share of tokens computed from all features, ``missed``: share of tokens of whose k features one is
        not among the k of largest upper bound. NaN where every feature is a candidate anyway, or k fits no plan.
    """
    n, chosen = len(x), plan(len(w), k)
    if chosen is None or not n:
        return dict.fromkeys(("slots", "collected", "scored", "redone", "missed"), math.nan)
    values = torch.empty(n, k, dtype=torch.float32, device=x.device)
    indices = torch.empty(n, k, dtype=torch.int32, device=x.device)
    chosen = formed(chosen, k, form_at(x, w))
    report = _select(Problem(x, w, b, form=chosen.form), chosen, k, values, indices)
    place = torch.arange(chosen.listed(k), device=x.device)
    missed = 0
    for row in range(n):  # a diagnosis: a token at a time needs little memory
        best = report["listed"][row, place < report["first"][row]]
        missed += int(not torch.isin(indices[row], best).all())
    return {
        "slots": float(chosen.slots),
        "collected": report["count"].double().mean().item(),
        "scored": report["scored"].double().mean().item(),
        "redone": report["redone"].item() / n,
        "missed": missed / n,
    }


def _select(p: Problem, plan: Plan, k: int, values: Tensor, indices: Tensor) -> dict[str, Tensor]:
    """Run the kernels; returns what ``candidates`` reports from."""
    n, slots, device = p.n, plan.slots, p.x.device

    def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=device)

    loose = plan.form in LOOSE and not plan.everything
    if plan.form == "slab" and not plan.everything:
        keys, count, threshold = p.sift(slots, k)
    else:
        threshold = ints(n, dtype=torch.float32) if plan.everything else p.thresholds(plan)
        keys, count = p.collect(threshold, slots, plan.everything, loose)
    listed, exact = ints(n, plan.listed(k)), ints(n, plan.listed(k), dtype=torch.int64)
    first, end, todo = (ints(n) for _ in range(3))
    n_todo = torch.zeros(1, dtype=torch.int32, device=device)
    kernel = topk_encode.choose
    run(
        kernel, n, p.x, p.w, p.b, p.left.length, p.left.error, p.right.length, p.right.error, threshold, keys, count,
        listed, exact, values, indices, first, end, todo, n_todo, p.d, p.rounding, k, CAP=slots, LISTED=plan.listed(k),
        ALL=plan.everything, LOOSE=loose, DITHERED=p.dithered, **_scoring(p, slots),
    )  # fmt: skip
    del exact
    if not plan.everything:
        _redo(p, k, slots, todo, n_todo, keys, values, indices)
    return {"count": count, "scored": end, "first": first, "listed": listed, "redone": n_todo}


def _scoring(p: Problem, slots: int) -> dict[str, int]:
    """Block sizes of ``choose``: of its rows, and with as many warps as hold the slots."""
    options = blocks(topk_encode.choose, p.d, p.x)
    return {**options, "num_warps": max(options["num_warps"], launch.slot_warps(slots))}


def _redo(
    p: Problem, k: int, slots: int, todo: Tensor, n_todo: Tensor, keys: Tensor, values: Tensor, indices: Tensor
) -> None:
    """The rows in the list, from all features. Launched always; ends at once when the list is empty."""
    kernel, as_chosen = topk_encode.redo, _scoring(p, slots)
    options = {**blocks(kernel, 0, p.x), **{name: as_chosen[name] for name in ("C", "BD", "num_warps")}}
    room = max(1, min(p.n, min(SPACE_BYTES, p.w.numel() * 4 // 16) // (4 * p.f)))
    options["R"] = 1 << (min(options["R"], room).bit_length() - 1)
    splits = min(slots // k, cdiv(p.f, options["BF"]))
    width, groups = cdiv(p.f, splits), room // options["R"]
    space = torch.empty(groups * splits * options["R"] * width, dtype=torch.int32, device=p.x.device)
    run(
        kernel, groups * splits, p.x, p.w, p.b, todo, n_todo, space, keys, p.f, p.d, k, width, splits, CAP=slots,
        **options,
    )  # fmt: skip
    kernel = topk_encode.emit
    run(
        kernel, min(p.n, MOST_EMITTERS), todo, n_todo, keys, values, indices, k, splits * k, CAP=slots,
        **blocks(kernel, 0, p.x),
    )  # fmt: skip


def _sorted_pieces(x: Tensor, w: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For k in the thousands of a large F: rows sorted by PyTorch, as many at a time as DENSE_BYTES hold."""
    rows = max(1, DENSE_BYTES // (16 * len(w)))
    parts = [
        reference.topk_encode(part.float(), w.float(), b.float(), k) for part in x.split(rows)
    ] or [reference.topk_encode(x, w, b, k)]  # fmt: skip
    values, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    bad = values.isnan().any(1, keepdim=True)
    return torch.where(bad, torch.nan, values).to(x.dtype), indices
