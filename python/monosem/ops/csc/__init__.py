"""A code sorted by feature: one counting sort serves the gradients of encoder and decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.csc import cpu, reference
from monosem.ops.library import register


def _fake(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    nnz = indices.shape[0]
    starts = indices.new_empty(d_sae + 1, dtype=torch.int64)
    return starts, indices.new_empty(nnz, dtype=torch.int64), indices.new_empty(nnz, dtype=torch.int32)


_csc = register(
    "csc(Tensor indices, Tensor offsets, SymInt d_sae) -> (Tensor, Tensor, Tensor)",
    folder=__name__,
    cpu=cpu.csc,
    reference=reference.csc,
    fake=_fake,
)


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of a code sorted by (feature, token): the code's columns where it had its rows.

    Args:
        indices: feature of each entry, int32 [nnz].
        offsets: int64 [N + 1]; the entries of token n stand at ``offsets[n]:offsets[n + 1]``.
        d_sae: number of features F.

    Returns:
        ``starts`` int64 [F + 1], where each feature's entries start; ``entries`` int64 [nnz], the place of each in the
        code; ``tokens`` int32 [nnz], the token of each. The same order every run.

    Raises:
        IndexError: a feature outside 0…F − 1, or offsets that do not divide the entries (on a GPU with
            ``MONOSEM_CHECK=1`` only).
    """
    return _csc(indices, offsets, d_sae)
