"""The definition of every operation in plain PyTorch: what the kernels must compute, on any device.

x [N, D] inputs · w [F, D] one row a feature · b a bias · (values [nnz], indices [nnz], offsets [N + 1]) a code in CSR
form · (starts [F + 1], entries [nnz], tokens [nnz]) the same code sorted by feature (CSC).
"""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import adam
from monosem.ops.code import row_ids


def topk_encode(x: Tensor, w: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """ReLU of the k largest of x·wᵀ + b, largest first; among equals the lowest index."""
    values, indices = (x @ w.T + b).sort(dim=-1, descending=True, stable=True)
    return values[:, :k].clamp(min=0), indices[:, :k].int()


def threshold_encode(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of ReLU(x·wᵀ + b) that are not 0, in CSR form, features ascending."""
    f = (x @ w.T + b).relu()
    rows, indices = f.nonzero(as_tuple=True)
    offsets = torch.cat([rows.new_zeros(1), torch.bincount(rows, minlength=len(x)).cumsum(0)])
    return f[rows, indices], indices.int(), offsets


def threshold_encode_within(
    x: Tensor, w: Tensor, b: Tensor, room: int, slots: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same in arrays of ``room`` entries, less the tokens that have more than ``slots`` or come when it is full."""
    f = (x @ w.T + b).relu()
    counts = (f != 0).sum(-1)
    kept = (counts <= slots) & (torch.where(counts <= slots, counts, 0).cumsum(0) <= room)
    rows, columns = (f * kept[:, None]).nonzero(as_tuple=True)
    values, indices = f.new_zeros(room), columns.new_full((room,), len(w), dtype=torch.int32)
    values[: len(rows)], indices[: len(rows)] = f[rows, columns], columns.int()
    offsets = torch.cat([counts.new_zeros(1), torch.where(kept, counts, 0).cumsum(0)])
    return values, indices, offsets, counts.int(), kept


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """b + Σ_j values_j · w[indices_j], token by token."""
    parts = values[:, None] * w[indices.long()]
    out = b.expand(len(offsets) - 1, -1).contiguous()
    return out.index_add(0, row_ids(offsets, len(values)), parts)


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    """g[token of j] · w[indices_j] for each entry j: the gradient of ``sparse_decode`` in its values."""
    return (g[row_ids(offsets, len(indices))] * w[indices.long()]).sum(-1)


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Residual r = decode − x, loss of each token mean_D r², and the gradient (2/D)·r·w of that loss in each value."""
    residual = sparse_decode(values, indices, offsets, w, b) - x
    return residual.square().mean(-1), residual, gather_dot(residual, indices, offsets, w) * (2 / x.shape[1])


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    """Entries sorted by (feature, token): where each feature starts, which entry, which token."""
    entries = indices.long().argsort(stable=True)
    counts = torch.bincount(indices.long(), minlength=d_sae)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return starts, entries, row_ids(offsets, len(indices))[entries].int()


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    """Row f: Σ over the entries of feature f of coef · u[token]. Gradient of both weight matrices."""
    features = row_ids(starts, len(entries))
    return u.new_zeros(len(starts) - 1, u.shape[1]).index_add(0, features, coef[entries, None] * u[tokens.long()])


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    """Σ of coef over the entries of each feature: the gradient of the encoder bias."""
    return coef.new_zeros(len(starts) - 1).index_add(0, row_ids(starts, len(entries)), coef[entries])


def row_adam_(
    w: Tensor, m: Tensor, v: Tensor, g: Tensor, lr: float, beta1: float, beta2: float, eps: float, step: int,
    unit: bool, lazy: bool = False, live: Tensor | None = None, scales: Tensor | None = None,
    copy: Tensor | None = None, norms: Tensor | None = None,
) -> None:  # fmt: skip
    """One step of torch.optim.Adam on rows, in place; ``unit``: parallel part of g removed before, rows unit after."""
    numbers = adam.factors(lr, beta1, beta2, eps, step), step
    (add1, keep2, add2, root2, step_size, eps), step = numbers if live is None else adam.read_live(live)
    touched = (g != 0).any(-1, keepdim=True) | (not lazy)
    g = g - (g * w).sum(-1, keepdim=True) * w if unit else g
    m32, v32 = adam.read_moments(m, v, scales)
    m32, v32 = m32 + add1 * (g - m32), keep2 * v32 + add2 * g * g
    new = w - step_size * (m32 / (v32.sqrt() / root2 + eps))
    new = new / new.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny) if unit else new
    adam.write_moments_(m, v, scales, m32, v32, touched, step)
    adam.write_copy_(w.copy_(torch.where(touched, new, w)), copy, norms)


def resample_(
    w_enc: Tensor, w_dec: Tensor, b_enc: Tensor, moments: list[Tensor], features: Tensor, inputs: Tensor,
    alive: Tensor, factor: float,
) -> None:  # fmt: skip
    """Features become their inputs' directions: decoder unit, encoder factor × mean alive norm, bias and moments 0."""
    direction = inputs / inputs.norm(dim=-1, keepdim=True)
    norm = w_enc[alive].norm(dim=-1).mean() if alive.any() else w_enc.new_ones(())
    w_dec[features], w_enc[features], b_enc[features] = direction, direction * (factor * norm), 0.0
    for moment in moments:
        moment[features] = 0.0
