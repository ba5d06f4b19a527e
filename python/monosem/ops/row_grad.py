"""Gradients of weight rows: one counting sort of the code serves the encoder and the decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import cpu_rows, reference
from monosem.ops.library import register


def _csc_fake(indices: Tensor, offsets: Tensor, d_sae: int):
    nnz = indices.shape[0]
    starts = indices.new_empty(d_sae + 1, dtype=torch.int64)
    return starts, indices.new_empty(nnz, dtype=torch.int64), indices.new_empty(nnz, dtype=torch.int32)


csc = register(
    "csc(Tensor indices, Tensor offsets, SymInt d_sae) -> (Tensor, Tensor, Tensor)",
    cpu=cpu_rows.csc,
    reference=reference.csc,
    fake=_csc_fake,
)
"""Entries of a code sorted by (feature, token): ``(starts int64 [F + 1], entries int64 [nnz], tokens int32 [nnz])``."""

row_grad = register(
    "row_grad(Tensor starts, Tensor entries, Tensor tokens, Tensor coef, Tensor u) -> Tensor",
    cpu=cpu_rows.row_grad,
    reference=reference.row_grad,
    fake=lambda starts, entries, tokens, coef, u: u.new_empty(starts.shape[0] - 1, u.shape[1]),
)
"""Row f of the result is Σ coef[entry] · u[token] over the entries of feature f: [F, D].

One worker reduces a row, in the order of its tokens: no atomics, the same bits every run and for any thread count.
"""

feature_sum = register(
    "feature_sum(Tensor starts, Tensor entries, Tensor coef) -> Tensor",
    cpu=cpu_rows.feature_sum,
    reference=reference.feature_sum,
    fake=lambda starts, entries, coef: coef.new_empty(starts.shape[0] - 1),
)
"""Σ coef[entry] over the entries of each feature: [F]."""
