"""One squared error, or one for each of several nested parts of a code: what a step needs of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from monosem import ops
from monosem.ops import SparseCode, gpu
from monosem.ops.shard import WHOLE, Shard, numbers_on, within

BLOCK = 128  # tokens of a block on a processor


@dataclass(frozen=True)
class Prefixes:
    r"""A squared error for each prefix of the features: ``mean_g mean_D (x − b_dec − Σ_{i < m_g} f_i·W_dec[i])²``.

    So the first features learn to reconstruct by themselves what is common. Source: Bussmann et al. 2025
    (arXiv 2503.17547), where the errors are summed: a factor on the loss.

    Attributes:
        sizes: m_1 < m_2 < … , the last is all features.
    """

    sizes: tuple[int, ...]

    def held(self, rows: slice) -> Prefixes:
        """The same of a shard, which has these features."""
        return Prefixes(within(self.sizes, rows))

    def parts(self, values: Tensor, indices: Tensor, offsets: Tensor, shard: Shard = WHOLE) -> Tensor:
        """Where the entries of each token's parts end: int64 [N·G + 1]. Features ascend within a token."""
        # Places behind the last entry get the token N.
        places = torch.arange(len(indices), device=indices.device)
        tokens = torch.searchsorted(offsets, places, right=True) - 1
        bounds = numbers_on(indices.device, self.sizes[:-1])
        keys = tokens * self.sizes[-1] + indices
        inner = torch.searchsorted(
            keys, torch.arange(len(offsets) - 1, device=keys.device)[:, None] * self.sizes[-1] + bounds
        )
        return torch.cat([offsets[:1], torch.cat([inner, offsets[1:, None]], 1).flatten()])

    def __len__(self) -> int:
        return len(self.sizes)


@lru_cache(maxsize=8)  # a step asks for its own more than once
def sampled_prefixes(n: int, least: int, d_sae: int, seed: int, step: int) -> Prefixes:
    r"""``n`` prefixes, the last of all features; the sizes of the others are drawn for a step.

    They are distinct, and drawn one after the other by a truncated Pareto law, so that small ones are frequent:
    ``P(size ≤ m) = √((m − least + 1) / (d_sae − least))`` for m = least … d_sae − 1. They depend on the arguments
    alone, on every device and in a resumed run.

    Source: Nabeshima 2024, *Matryoshka Sparse Autoencoders*; the law is that of its code, for ``least`` = 1.
    """
    draws, sizes = random.Random(f"prefixes {seed} {step}"), {d_sae}
    while len(sizes) < n:  # a size that is there already is drawn again: as without replacement
        sizes.add(least + int((d_sae - least) * draws.random() ** 2))
    return Prefixes(tuple(sorted(sizes)))


@dataclass(frozen=True)
class Ranks:
    r"""A squared error for each number of largest entries: ``mean_j mean_D (x − b_dec − Σ_{i ≤ j} f_(i)·W_dec[(i)])²``.

    The entries of a token stand in descending order, as TopK gives them, so that one dictionary serves every k up to
    that of its training. Source: *Train One Sparse Autoencoder Across Multiple Sparsity Budgets* (arXiv 2505.24473).

    Attributes:
        sizes: j_1 < j_2 < … , the last is k.
    """

    sizes: tuple[int, ...]

    def held(self, rows: slice) -> Ranks:
        """The same of a shard: the ranks are those among the entries of all."""
        return self

    def parts(self, values: Tensor, indices: Tensor, offsets: Tensor, shard: Shard = WHOLE) -> Tensor:
        """Where the entries of each token's parts end: int64 [N·G + 1]. They descend within a token."""
        ends = offsets[:-1, None] + shard.among_largest(values, offsets, self.sizes)
        return torch.cat([offsets[:1], torch.minimum(ends, offsets[1:, None]).flatten()])

    def __len__(self) -> int:
        return len(self.sizes)


Nesting = Prefixes | Ranks


def ascending(code: SparseCode) -> SparseCode:
    """The code with the features of each token ascending."""
    if code.offsets is None:
        indices, order = code.indices.sort(-1)
        return SparseCode(code.values.gather(-1, order), indices, None, code.d_sae, code.shape)
    order = (code.row_ids() * code.d_sae + code.indices).argsort()
    return SparseCode(code.values[order], code.indices[order], code.offsets, code.d_sae, code.shape)


@dataclass(frozen=True)
class Fit:
    """The squared error of a code, and what its gradient consists of.

    Attributes:
        losses: of each token, [N]; the mean over the parts.
        mse: that of the whole code, of each token [N].
        residual: x̂ − x of the whole code [N, D].
        offsets: of the decoder's tokens, [N·G + 1]: a token once per part.
        gradients: ``D/2 · ∂ loss / ∂ x̂``, a row per decoder's token, [N·G, D]; the whole code's residual where G is 1.
        slopes: gradient of each entry's value in its token's loss [nnz].
    """

    losses: Tensor
    mse: Tensor
    residual: Tensor
    offsets: Tensor
    gradients: Tensor
    slopes: Tensor

    @property
    def parts(self) -> int:
        return max(1, (len(self.offsets) - 1) // max(1, len(self.residual)))


def fit(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    w: Tensor,
    b: Tensor,
    x: Tensor,
    nesting: Nesting | None,
    shard: Shard = WHOLE,
) -> Fit:
    """The squared error of a code in CSR form. ``losses``, ``mse`` and ``residual`` are differentiable.

    Args:
        w: decoder rows [F, D]. b: [D]. x: the target [N, D].
        shard: whose features these are; of a part of them nothing is differentiable.
    """
    if not shard.is_whole:
        return _of_shard(values, indices, offsets, w, b, x, nesting, shard)
    if nesting is None or len(nesting) == 1:
        mse, residual, slopes = ops.decode_loss_rows(values, indices, offsets, w, b, x)
        return Fit(mse, mse, residual, offsets, residual, slopes)
    ends = nesting.parts(values, indices, offsets)
    if x.device.type == "cpu" and not gpu.interpreted() and not torch.is_grad_enabled():
        return _in_blocks(values, indices, ends, w, b, x)
    n, d = x.shape
    of_parts = ops.sparse_decode(values, indices, ends, w, torch.zeros_like(b)).view(n, -1, d)
    residuals = of_parts.cumsum(1) + (b - x)[:, None]
    squares = residuals.square().mean(2)
    with torch.no_grad():  # an entry of a part is in every later prefix
        later = residuals.detach().flip(1).cumsum(1).flip(1).div_(len(nesting)).reshape(-1, d)
        slopes = ops.gather_dot(later, indices, ends, w).mul_(2 / d)
    return Fit(squares.mean(1), squares[:, -1], residuals[:, -1], ends, later, slopes)


def _in_blocks(values: Tensor, indices: Tensor, ends: Tensor, w: Tensor, b: Tensor, x: Tensor) -> Fit:
    """The same on a processor, a block of tokens at a time: what the next pass reads is in cache still."""
    (n, d), parts = x.shape, (len(ends) - 1) // max(1, len(x))
    gradients, residual, slopes = x.new_empty(n * parts, d), torch.empty_like(x), torch.empty_like(values)
    squares, nothing = x.new_empty(n, parts), torch.zeros_like(b)
    for first in range(0, n, BLOCK):
        tokens = slice(first, min(first + BLOCK, n))
        rows = slice(first * parts, tokens.stop * parts)
        begin, end = int(ends[rows.start]), int(ends[rows.stop])
        here, v, i = ends[rows.start : rows.stop + 1] - begin, values[begin:end], indices[begin:end]
        r = ops.sparse_decode(v, i, here, w, nothing).view(-1, parts, d)
        r[:, 0] += b - x[tokens]
        for g in range(1, parts):
            r[:, g] += r[:, g - 1]
        squares[tokens] = torch.linalg.vector_norm(r, dim=2).square_().div_(d)
        residual[tokens] = r[:, -1]
        for g in range(parts - 2, -1, -1):  # an entry of a part is in every later prefix
            r[:, g] += r[:, g + 1]
        out = gradients[rows]
        torch.mul(r.view(-1, d), 1 / parts, out=out)
        slopes[begin:end] = ops.gather_dot(out, i, here, w)
    slopes[int(ends[-1]) :] = 0.0  # places behind the last entry
    return Fit(squares.mean(1), squares[:, -1], residual, ends, gradients, slopes.mul_(2 / d))


@torch.no_grad()
def _of_shard(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    w: Tensor,
    b: Tensor,
    x: Tensor,
    nesting: Nesting | None,
    shard: Shard,
) -> Fit:
    """The same where other processes have other entries of these tokens: their reconstructions are added."""
    parts, (n, d) = 1 if nesting is None else len(nesting), x.shape
    ends = offsets if nesting is None or parts == 1 else nesting.parts(values, indices, offsets, shard)
    decoded = ops.sparse_decode(values, indices, ends, w, torch.zeros_like(b))
    residuals = shard.sum_features(decoded).view(n, parts, d)
    residuals[:, 0] += b - x
    for g in range(1, parts):
        residuals[:, g] += residuals[:, g - 1]
    squares = torch.linalg.vector_norm(residuals, dim=2).square_().div_(d)
    residual, losses = residuals[:, -1].contiguous(), squares.mean(1)
    gradients = residual
    if parts > 1:  # an entry of a part is in every later prefix
        gradients = residuals.flip(1).cumsum(1).flip(1).div_(parts).view(n * parts, d)
    slopes = ops.gather_dot(gradients, indices, ends, w).mul_(2 / d)
    mse = squares[:, -1]
    return Fit(mse if parts == 1 else losses, mse, residual, ends, gradients, slopes)
