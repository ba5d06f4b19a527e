"""The definitions in plain PyTorch, which every kernel of these operations must match."""

from __future__ import annotations

from torch import Tensor

from monosem.ops.code import row_ids


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    """Row f: Σ over the entries of feature f of coef · u[token]. Gradient of both weight matrices."""
    features = row_ids(starts, len(entries))
    return u.new_zeros(len(starts) - 1, u.shape[1]).index_add(0, features, coef[entries, None] * u[tokens.long()])


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    """Σ of coef over the entries of each feature: the gradient of the encoder bias."""
    return coef.new_zeros(len(starts) - 1).index_add(0, row_ids(starts, len(entries)), coef[entries])
