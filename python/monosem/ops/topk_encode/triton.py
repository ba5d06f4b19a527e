"""TopK by Triton: the launches of ``kernels/topk_encode``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import monosem.kernels.launch as launch
from monosem.kernels.topk_encode import triton as kernels
from monosem.ops import step_stats, triton_launch
from monosem.ops.selection.triton import LOOSE, Problem, form_at
from monosem.ops.selection.triton_operand import operand
from monosem.ops.selection.triton_plan import Plan, formed, plan_of
from monosem.ops.topk_encode import reference
from monosem.ops.triton_launch import blocks, cdiv

BUFFER_BYTES = 128 << 20  # for candidates, but at most an eighth of the weights; more tokens are taken in turn,
LEAST_BYTES = 64 << 20  # which may have so much though: 4,096 tokens at the shape of GPT-2, of which they take 40 MB,
FEWEST_ROWS = 1024  # and at least so many at a time
ROWS_TOGETHER = 128  # rows of a tile: of parts that are no multiple of it, the last tile is wasted
SPACE_BYTES = 16 << 20  # for the rows that are done again, which are few, but at most a sixteenth of the weights
MOST_EMITTERS = 512  # programs that write the redone rows
DENSE_BYTES = 256 << 20  # for pieces of tokens × features where k is larger than any plan


def topk_encode(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    k: int,
    copy: Tensor | None = None,
    norms: Tensor | None = None,
    frequency: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``reference.topk_encode`` with nothing of size tokens × F, and no host synchronisation."""
    chosen = plan_of(len(w), k)
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
    """The cost of selection on these tokens, and the errors that the bf16 product alone would make.

    Returns:
        ``slots`` per token, mean ``collected`` (above the threshold) and mean ``scored`` in fp32 per token,
        ``redone``: share of tokens computed from all features, ``missed``: share of tokens of whose k features one is
        not among the k of largest upper bound. NaN where every feature is a candidate anyway, or k fits no plan.
    """
    n, chosen = len(x), plan_of(len(w), k)
    if chosen is None or not n:
        return dict.fromkeys(("slots", "collected", "scored", "redone", "missed"), math.nan)
    values = torch.empty(n, k, dtype=torch.float32, device=x.device)
    indices = torch.empty(n, k, dtype=torch.int32, device=x.device)
    chosen = formed(chosen, k, form_at(x, w))
    report = _select(Problem(x, w, b, form=chosen.form), chosen, k, values, indices)
    place = torch.arange(chosen.listed(k), device=x.device)
    missed = 0
    for row in range(n):  # a diagnosis: one token at a time needs little memory
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
    kernel = kernels.choose
    candidates = *p.left.bounds, *p.right.bounds, threshold, keys, count
    out = listed, exact, values, indices, first, end, todo, n_todo
    sizes = {"CAP": slots, "LISTED": plan.listed(k), "ALL": plan.everything, "LOOSE": loose, "DITHERED": p.dithered}
    args = p.x, p.w, p.b, *candidates, *out, p.d, p.rounding, k
    triton_launch.run(kernel, n, *args, **sizes, **_scoring(p, slots))
    del exact
    if not plan.everything:
        _redo(p, k, slots, todo, n_todo, keys, values, indices)
    return {"count": count, "scored": end, "first": first, "listed": listed, "redone": n_todo}


def _scoring(p: Problem, slots: int) -> dict[str, int]:
    """Block sizes of ``choose``: of its rows, and with as many warps as hold the slots."""
    options = blocks(kernels.choose, p.d, p.x)
    return {**options, "num_warps": max(options["num_warps"], launch.slot_warps(slots))}


def _redo(
    p: Problem, k: int, slots: int, todo: Tensor, n_todo: Tensor, keys: Tensor, values: Tensor, indices: Tensor
) -> None:
    """The rows in the list, from all features. Always launched; returns at once when the list is empty."""
    kernel, as_chosen = kernels.redo, _scoring(p, slots)
    options = {**blocks(kernel, 0, p.x), **{name: as_chosen[name] for name in ("C", "BD", "num_warps")}}
    room = max(1, min(p.n, min(SPACE_BYTES, p.w.numel() * 4 // 16) // (4 * p.f)))
    options["R"] = 1 << (min(options["R"], room).bit_length() - 1)
    splits = min(slots // k, cdiv(p.f, options["BF"]))
    width, groups = cdiv(p.f, splits), room // options["R"]
    space = torch.empty(groups * splits * options["R"] * width, dtype=torch.int32, device=p.x.device)
    args = p.x, p.w, p.b, todo, n_todo, space, keys, p.f, p.d, k, width, splits
    triton_launch.run(kernel, groups * splits, *args, CAP=slots, **options)
    kernel = kernels.emit
    args = todo, n_todo, keys, values, indices, k, splits * k
    triton_launch.run(kernel, min(p.n, MOST_EMITTERS), *args, CAP=slots, **blocks(kernel, 0, p.x))


def _sorted_pieces(x: Tensor, w: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """For k in the thousands of a large F: rows sorted by PyTorch, as many at a time as DENSE_BYTES hold."""
    rows = max(1, DENSE_BYTES // (16 * len(w)))
    parts = [reference.topk_encode(part.float(), w.float(), b.float(), k) for part in x.split(rows)]
    parts = parts or [reference.topk_encode(x, w, b, k)]
    values, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    bad = values.isnan().any(1, keepdim=True)
    return torch.where(bad, torch.nan, values).to(x.dtype), indices
