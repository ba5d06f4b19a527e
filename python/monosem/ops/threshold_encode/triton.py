"""Encode by a threshold with Triton: what may be above it, scored in fp32, compacted to CSR."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.kernels.launch import power2
from monosem.kernels.threshold_encode import triton as kernels
from monosem.ops import step_stats, triton_launch
from monosem.ops.selection.triton import LOOSE, Problem, form_at
from monosem.ops.selection.triton_operand import operand
from monosem.ops.threshold_encode import reference
from monosem.ops.triton_launch import blocks

DENSE_BYTES = 256 << 20  # for pieces of tokens × features where a row has more entries than slots
SLOTS = 512


def threshold_encode(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    threshold: Tensor | None = None,
    copy: Tensor | None = None,
    norms: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.threshold_encode`` in memory that grows with the active entries.

    The number of entries decides the size of the answer, so the host waits for it, once; a second time for rows with
    more candidates than slots.
    """
    n, device = len(x), x.device
    offsets = torch.zeros(n + 1, dtype=torch.int64, device=device)
    if not n:
        return x.new_empty(0), torch.empty(0, dtype=torch.int32, device=device), offsets
    form = form_at(x, w, "select_active")
    p = Problem(x, w, b, operand(copy, norms), form, threshold)
    slots, loose = min(SLOTS, power2(len(w))), form in LOOSE
    keys, count = p.collect_above(slots, loose)
    exact, end, kept = _score_candidates(p, keys, count)
    torch.cumsum(kept, 0, out=offsets[1:])
    most, nnz = _wait_for(count.amax(), offsets[-1])
    step_stats.encoded(p.product, n)
    if most > slots:
        step_stats.redone(n)
        if power2(most) > 1024 or n * power2(most) * 20 > DENSE_BYTES:
            return _dense_pieces(x, w, b, threshold)
        keys, count = p.collect_above(power2(most), loose)
        exact, end, kept = _score_candidates(p, keys, count)
        torch.cumsum(kept, 0, out=offsets[1:])
        nnz = _wait_for(offsets[-1])[0]
    values = torch.empty(nnz, dtype=x.dtype, device=device)
    indices = torch.empty(nnz, dtype=torch.int32, device=device)
    _place(p, exact, end, offsets, values, indices)
    return values, indices, offsets


def threshold_encode_within(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    capacity: int,
    per_token: int,
    copy: Tensor | None = None,
    norms: Tensor | None = None,
    threshold: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``reference.threshold_encode_within``. No synchronisation. ``counts`` are of candidates."""
    n, device = len(x), x.device
    values = torch.zeros(capacity, dtype=x.dtype, device=device)
    indices = torch.full((capacity,), len(w), dtype=torch.int32, device=device)
    offsets = torch.zeros(n + 1, dtype=torch.int64, device=device)
    if not n:
        empty = torch.zeros(0, dtype=torch.int32, device=device)
        return values, indices, offsets, empty, empty.bool()
    form = form_at(x, w, "select_active")
    p = Problem(x, w, b, operand(copy, norms), form, threshold)
    keys, count = p.collect_above(per_token, form in LOOSE)
    candidates = count.sum() if step_stats.timed() else 0
    step_stats.encoded(p.product, n, candidates, candidates)
    exact, end, kept = _score_candidates(p, keys, count)
    fits = count <= per_token
    fits &= torch.where(fits, kept, 0).cumsum(0) <= capacity
    torch.cumsum(torch.where(fits, kept, 0), 0, out=offsets[1:])
    _place(p, exact, torch.where(fits, end, 0), offsets, values, indices)
    return values, indices, offsets, count, fits


def _wait_for(*numbers: Tensor) -> list[int]:
    """Numbers from the device; the host waits, once."""
    return torch.stack([n.long() for n in numbers]).tolist()


def _score_candidates(p: Problem, keys: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exact keys of every candidate, how many there are per row, and how many of them are above their threshold."""
    n, slots = keys.shape
    listed, end = torch.empty(n, slots, dtype=torch.int32, device=keys.device), count.clamp(max=slots)
    kernel = kernels.unpack_features
    triton_launch.run(kernel, n, keys, count, listed, CAP=slots, **blocks(kernel, 0, keys))
    p.score(listed, end, keys)
    kept = torch.empty(n, dtype=torch.int64, device=keys.device)
    kernel = kernels.count_kept
    triton_launch.run(kernel, n, keys, end, p.threshold, kept, CAP=slots, **blocks(kernel, 0, keys))
    return keys, end, kept


def _place(p: Problem, exact: Tensor, end: Tensor, offsets: Tensor, values: Tensor, indices: Tensor) -> None:
    """Write the entries among the first ``end[row]`` candidates to the code."""
    kernel = kernels.place
    args = exact, end, offsets, values, indices
    options = {"MARKED": p.threshold is not None, "CAP": exact.shape[1], **blocks(kernel, 0, p.x)}
    triton_launch.run(kernel, p.n, *args, **options)


def _dense_pieces(x: Tensor, w: Tensor, b: Tensor, threshold: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """While a good part of all features fire, the answer itself is large: products in fp32, a few tokens at a time."""
    rows = max(1, DENSE_BYTES // (16 * len(w)))
    others = w.float(), b.float(), None if threshold is None else threshold.float()
    parts = [reference.threshold_encode(part.float(), *others) for part in x.split(rows)]
    counts = torch.cat([offsets.diff() for _, _, offsets in parts])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return torch.cat([v for v, _, _ in parts]).to(x.dtype), torch.cat([i for _, i, _ in parts]), offsets
