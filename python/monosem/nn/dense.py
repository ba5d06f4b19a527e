"""The ReLU autoencoder's gradients by dense products, a block of features at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.ops.precision import as_given

# Activations of a block of features. Products of this size are as fast as larger ones on a CPU, where what a step may
# take beyond its weights is little; a GPU wants larger ones.
CPU_BYTES, GPU_BYTES = 2 << 20, 64 << 20


@dataclass(frozen=True)
class DenseRows:
    """Gradients of some or all features, multiplied out."""

    w_enc: Tensor
    w_dec: Tensor
    b_enc: Tensor


class DenseBlocks:
    """Gradients multiplied out, used while so many features fire that dense products are cheaper than gathering rows.

    No array has the size of tokens × features or of a weight matrix. The reconstruction needs all features: it is made
    first. Then, as the blocks are asked for, each one's activations are made again beside its gradients, which costs
    six products instead of five.

    Args:
        x: [N, D], what is reconstructed. ``centred``: x − b_dec.
        w_enc, w_dec: rows [F, D]; those of a block may change once it was given. ``b_enc``: [F]; ``b_dec``: [D].
        penalty: gradient of the loss in each active feature's value, by sparsity.

    Attributes:
        squares: Σ (x̂ − x)²; ``total``: Σ f; both 0-dim float64.
        counts: int64 [F], tokens on which each feature fires; ``per_token``: int64 [N], features that fire.
        b_dec: gradient of the decoder bias through the decoder, [D].
    """

    @as_given
    def __init__(
        self, x: Tensor, centred: Tensor, w_enc: Tensor, w_dec: Tensor, b_enc: Tensor, b_dec: Tensor, penalty: float
    ) -> None:
        (n, d), features = x.shape, len(w_enc)
        self._w_enc, self._w_dec, self._b_enc = w_enc.detach(), w_dec.detach(), b_enc.detach()
        self._centred, self._penalty = centred, penalty
        size = CPU_BYTES if x.device.type == "cpu" else GPU_BYTES
        self._step = min(features, max(64, size // (x.element_size() * max(1, n))))
        # Kept from block to block: fresh memory costs more than what is done in it.
        self._f, self._other = x.new_empty(n * self._step), x.new_empty(n * self._step)
        self._on = torch.empty(n * self._step, dtype=torch.bool, device=x.device)
        number = torch.promote_types(x.dtype, torch.float32)  # in which whole numbers below 2²⁴ are exact
        counts, per_token = x.new_empty(features, dtype=number), x.new_zeros(n, dtype=number)
        self.total = torch.zeros((), dtype=torch.float64, device=x.device)
        residual = b_dec - x
        for part in self._parts():
            f, on, ones = self._activations(part)
            residual.addmm_(f, self._w_dec[part])
            ones.copy_(on)
            counts[part] = ones.sum(0, dtype=number)
            per_token += ones.sum(1, dtype=number)
            self.total += f.sum()
        self.counts, self.per_token = counts.long(), per_token.long()
        self.squares = torch.linalg.vector_norm(residual, dim=1).double().square().sum()
        self._slope = residual.mul_(2 / (n * d))  # of the loss in x̂
        self.b_dec = residual.sum(0)

    def __iter__(self) -> Iterator[tuple[slice, DenseRows]]:
        """Features of the block, and their gradients."""
        for part in self._parts():
            yield part, self._gradients(part)

    @as_given
    def _gradients(self, part: slice) -> DenseRows:
        f, on, slope = self._activations(part)
        torch.mm(self._slope, self._w_dec[part].T, out=slope).add_(self._penalty).mul_(on)
        return DenseRows(torch.mm(slope.T, self._centred), torch.mm(f.T, self._slope), slope.sum(0))

    def whole(self) -> DenseRows:
        """The gradients of all features."""
        rows = DenseRows(*(torch.empty_like(w) for w in (self._w_enc, self._w_dec, self._b_enc)))
        for part, some in self:
            rows.w_enc[part], rows.w_dec[part], rows.b_enc[part] = some.w_enc, some.w_dec, some.b_enc
        return rows

    def _parts(self) -> Iterator[slice]:
        features = len(self._w_enc)
        return (slice(first, min(first + self._step, features)) for first in range(0, features, self._step))

    @as_given
    def _activations(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Activations of a block, which of them are not 0, and room for as many numbers, all [N, its features]."""
        n, width = len(self._centred), part.stop - part.start
        f, on, other = (t[: n * width].view(n, width) for t in (self._f, self._on, self._other))
        torch.addmm(self._b_enc[part], self._centred, self._w_enc[part].T, out=f).relu_()
        return f, torch.ne(f, 0, out=on), other
