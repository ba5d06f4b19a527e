"""The definition of every operation in plain PyTorch: what the kernels must compute, on any device.

x [N, D] inputs · w [F, D] one row a feature · b a bias · (values [nnz], indices [nnz], offsets [N + 1]) a code in CSR
form · (starts [F + 1], entries [nnz], tokens [nnz]) the same code sorted by feature (CSC).
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    w: Tensor, m: Tensor, v: Tensor, g: Tensor, lr: float, beta1: float, beta2: float, eps: float, step: int, unit: bool
) -> None:
    """One step of torch.optim.Adam on rows, in place; ``unit``: parallel part of g removed before, rows unit after."""
    g = g - (g * w).sum(-1, keepdim=True) * w if unit else g
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    denominator = (v.sqrt() / (1 - beta2**step) ** 0.5).add_(eps)
    w.addcdiv_(m, denominator, value=-lr / (1 - beta1**step))
    if unit:
        w.div_(w.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny))


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
