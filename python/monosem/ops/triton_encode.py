"""Encode and select by Triton: what ``kernels/topk_encode.py`` and ``threshold_encode.py`` need around them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from monosem.kernels import product, topk_encode
from monosem.kernels.launch import power2
from monosem.ops import backend, gpu, reference
from monosem.ops.triton_launch import blocks, cdiv, run

PAD = 64  # the product reads rows padded to a multiple of this
MOST_SLOTS = 8192  # candidates a row that one program can hold
CHANCE = 1e-9  # of a row that has to be done again, by the rule that sets the bar
BUFFER_BYTES = 128 << 20  # for candidates, but at most an eighth of the weights; more tokens are taken in turn,
FEWEST_ROWS = 1024  # at least so many at a time
SPACE_BYTES = 16 << 20  # for the rows that are done again, which are few, but at most a sixteenth of the weights
DENSE_BYTES = 256 << 20  # for pieces of tokens × features where k is larger than any plan


@dataclass(frozen=True)
class Plan:
    """How a row of F pre-activations is cut down to candidates.

    Attributes:
        slots: room for candidates, a power of two; all F of them when ``everything``.
        sample: columns that the bar is set from.
        j, j_most: ranks in the sample between which the bar is.
    """

    slots: int
    everything: bool
    sample: int = 0
    j: int = 0
    j_most: int = 0


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


def rounding(d: int) -> float:
    """How far a product of bf16 rows of d and its score in fp32 may be apart, relative to Σ|x·w| ≤ ‖x‖·‖w‖.

    Tensor cores add T products to the sum at once: each of the T + 1 is cut off at 2⁻ᴮ of the largest, then the result
    at 2⁻²³. By published tests of the chips T = 8, B = 24 on Ampere and Ada, which is 5/8 of 2⁻²³ a product; T = 16,
    B = 25 on Hopper and Blackwell, 5/16; CDNA3, in two stages, stays below 7/8; fp32 without tensor cores, 1/2. One a
    product covers them all. The score adds d/BD + log₂ BD of its own at 2⁻²⁴, which the rest and the 64 cover.
    """
    return (d + 64) * 2.0**-23


@dataclass(frozen=True)
class _Operand:
    """A matrix in the product's dtype, and what is known of the rounding of its rows."""

    rows: Tensor
    length: Tensor
    error: Tensor


def _rounded(t: Tensor, dtype: torch.dtype) -> _Operand:
    n, d = t.shape
    width = cdiv(d, PAD) * PAD
    copy = t.dtype != dtype or width != d
    rows = torch.empty(n, width, dtype=dtype, device=t.device) if copy else t
    length, error = (torch.empty(n, dtype=torch.float32, device=t.device) for _ in range(2))
    kernel = product.round_rows
    options = blocks(kernel, d, t)
    run(kernel, cdiv(n, options["R"]), t, rows, length, error, n, d, width, COPY=copy, **options)
    return _Operand(rows, length, error)


class Problem:
    """x·wᵀ + b on its way to candidates."""

    def __init__(self, x: Tensor, w: Tensor, b: Tensor, right: _Operand | None = None) -> None:
        self.x, self.w, self.b = x.contiguous(), w.contiguous(), b.contiguous()
        self.n, self.d, self.f = len(x), x.shape[1], len(w)
        low = backend.gpu_bf16_products() or x.dtype == torch.bfloat16
        dtype = torch.bfloat16 if low else torch.float32
        # Triton's interpreter cannot multiply bf16: there the factors are rounded to bf16 all the same.
        self.fp32 = not low or gpu.interpreted()
        self.element = 2 if low else 4
        self.width = cdiv(self.d, PAD) * PAD
        self.rounding = rounding(self.d)
        self.left, self.right = _rounded(self.x, dtype), right or _rounded(self.w, dtype)

    def sample(self, size: int) -> Tensor:
        out = torch.empty(self.n, size, dtype=torch.float32, device=self.x.device)
        options = blocks(product.sample, self.element, self.x)
        grid = cdiv(self.n, options["BM"]) * cdiv(size, options["BN"])
        run(
            product.sample, grid, self.left.rows, self.right.rows, self.b, out, self.n, size, self.f // size,
            self.width, FP32=self.fp32, **options,
        )  # fmt: skip
        return out

    def collect(self, bar: Tensor, slots: int, everything: bool) -> tuple[Tensor, Tensor]:
        keys = torch.empty(self.n, slots, dtype=torch.int64, device=self.x.device)
        count = torch.full((self.n,), self.f if everything else 0, dtype=torch.int32, device=self.x.device)
        options = blocks(product.collect, self.element, self.x)
        grid = cdiv(self.n, options["BM"]) * cdiv(self.f, options["BN"])
        run(
            product.collect, grid, self.left.rows, self.right.rows, self.b, self.left.length, self.left.error,
            self.right.length, self.right.error, bar, keys, count, self.n, self.f, self.width, self.rounding,
            CAP=slots, ALL=everything, FP32=self.fp32, **options,
        )  # fmt: skip
        return keys, count

    def score(self, listed: Tensor, begin: Tensor, end: Tensor, exact: Tensor) -> None:
        kernel = topk_encode.score
        run(
            kernel, self.n, self.x, self.w, self.b, listed, begin, end, exact, self.d, CAP=listed.shape[1],
            **blocks(kernel, self.d, self.x),
        )  # fmt: skip


def empty_copy(w: Tensor) -> tuple[Tensor, Tensor] | None:
    """Room for w [F, D] as its product reads it, and for its norms: zeros, to be written by ``row_adam_`` or
    ``round_into``. None where products are in fp32."""
    if not backend.gpu_bf16_products():
        return None
    copy = torch.zeros(len(w), cdiv(w.shape[1], PAD) * PAD, dtype=torch.bfloat16, device=w.device)
    return copy, torch.zeros(2, len(w), dtype=torch.float32, device=w.device)


def round_into(copy: Tensor, norms: Tensor, w: Tensor) -> None:
    """Write w [F, D] to what ``empty_copy`` made."""
    kernel = product.round_rows
    n, d = w.shape
    options = blocks(kernel, d, w)
    run(kernel, cdiv(n, options["R"]), w, copy, norms[0], norms[1], n, d, copy.shape[1], COPY=True, **options)


def operand(copy: Tensor | None, norms: Tensor | None) -> _Operand | None:
    usable = copy is not None and backend.gpu_bf16_products()
    return _Operand(copy, norms[0], norms[1]) if usable else None


def topk(
    x: Tensor, w: Tensor, b: Tensor, k: int, copy: Tensor | None = None, norms: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``reference.topk_encode`` with nothing of size tokens × F, and no host synchronisation."""
    chosen = plan(len(w), k)
    if chosen is None:
        return _sorted_pieces(x, w, b, k)
    values = torch.empty(len(x), k, dtype=torch.float32, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int32, device=x.device)
    buffer = min(BUFFER_BYTES, w.numel() * 4 // 8)
    rows = max(FEWEST_ROWS, buffer // max(chosen.slots * 20, chosen.sample * 4))
    rows = max(1, cdiv(len(x), max(1, cdiv(len(x), rows))))  # shares of the same size
    right = operand(copy, norms)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        problem = Problem(x[part], w, b, right)
        right = problem.right
        _select(problem, chosen, k, values[part], indices[part])
    return values.to(x.dtype), indices


@torch.no_grad()
def candidates(x: Tensor, w: Tensor, b: Tensor, k: int) -> dict[str, float]:
    """What selection costs on these tokens, and what it would get wrong if the product in bf16 were believed.

    Returns:
        ``slots`` a token that there is room for, mean ``collected`` (above the bar) and ``scored`` in fp32 a token,
        ``redone``: share of tokens computed from all features, ``missed``: share of tokens of whose k features one is
        not among the k of largest upper bound. NaN where every feature is a candidate anyway, or k fits no plan.
    """
    n, chosen = len(x), plan(len(w), k)
    if chosen is None or not n:
        return dict.fromkeys(("slots", "collected", "scored", "redone", "missed"), math.nan)
    values = torch.empty(n, k, dtype=torch.float32, device=x.device)
    indices = torch.empty(n, k, dtype=torch.int32, device=x.device)
    report = _select(Problem(x, w, b), chosen, k, values, indices)
    place = torch.arange(chosen.slots, device=x.device)
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

    bar = torch.empty(n, dtype=torch.float32, device=device)
    if not plan.everything:
        sampled = p.sample(plan.sample)
        run(
            topk_encode.set_bar, n, sampled, p.left.length, p.left.error, p.right.length.amax(), p.right.error.amax(),
            bar, plan.sample, p.rounding, plan.j, plan.j_most, BS=power2(plan.sample),
            **blocks(topk_encode.set_bar, plan.sample, p.x),
        )  # fmt: skip
        del sampled
    keys, count = p.collect(bar, slots, plan.everything)
    listed, exact = ints(n, slots), ints(n, slots, dtype=torch.int64)
    bound, first, end, is_nan, todo = (ints(n) for _ in range(5))
    n_todo = torch.zeros(1, dtype=torch.int32, device=device)
    run(
        topk_encode.narrow, n, keys, count, listed, bound, first, k, CAP=slots,
        **blocks(topk_encode.narrow, slots, p.x),
    )  # fmt: skip
    p.score(listed, torch.zeros_like(first), first, exact)
    run(
        topk_encode.widen, n, keys, count, bar, listed, bound, first, exact, end, is_nan, todo, n_todo, k, CAP=slots,
        ALL=plan.everything, **blocks(topk_encode.widen, slots, p.x),
    )  # fmt: skip
    p.score(listed, first, end, exact)
    if not plan.everything:
        _redo(p, k, slots, todo, n_todo, exact, end, is_nan)
    run(topk_encode.emit, n, exact, end, is_nan, values, indices, k, CAP=slots, **blocks(topk_encode.emit, 0, p.x))
    return {"count": count, "scored": end, "first": first, "listed": listed, "redone": n_todo}


def _redo(
    p: Problem, k: int, slots: int, todo: Tensor, n_todo: Tensor, exact: Tensor, end: Tensor, is_nan: Tensor
) -> None:
    """The rows in the list, from all features. Launched always; ends at once when the list is empty."""
    kernel, as_scored = topk_encode.redo, blocks(topk_encode.score, p.d, p.x)
    options = {**blocks(kernel, 0, p.x), **{name: as_scored[name] for name in ("BD", "num_warps")}}
    room = max(1, min(p.n, min(SPACE_BYTES, p.w.numel() * 4 // 16) // (4 * p.f)))
    options["R"] = 1 << (min(options["R"], room).bit_length() - 1)
    splits = min(slots // k, cdiv(p.f, options["BF"]))
    width, groups = cdiv(p.f, splits), room // options["R"]
    space = torch.empty(groups * splits * options["R"] * width, dtype=torch.int32, device=p.x.device)
    run(
        kernel, groups * splits, p.x, p.w, p.b, todo, n_todo, space, exact, end, is_nan, p.f, p.d, k, width, splits,
        CAP=slots, **options,
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
