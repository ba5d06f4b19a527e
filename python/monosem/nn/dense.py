"""The ReLU autoencoder's gradients by dense products, a block of features at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from monosem.nn.gradients import DenseRows

# Activations of a block of features. Products of this size are as fast as larger ones on a CPU, where what a step may
# take beyond its weights is little; a GPU wants larger ones.
CPU_BYTES, GPU_BYTES = 4 << 20, 64 << 20


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

    def __init__(
        self, x: Tensor, centred: Tensor, w_enc: Tensor, w_dec: Tensor, b_enc: Tensor, b_dec: Tensor, penalty: float
    ) -> None:
        n, d = x.shape
        self._w_enc, self._w_dec, self._b_enc = w_enc, w_dec, b_enc
        self._centred, self._penalty = centred, penalty
        self.counts = torch.zeros(len(w_enc), dtype=torch.int64, device=x.device)
        self.per_token = torch.zeros(n, dtype=torch.int64, device=x.device)
        self.total = torch.zeros((), dtype=torch.float64, device=x.device)
        residual = b_dec - x
        for part in self._parts():
            f = self._activations(part)
            residual.addmm_(f, w_dec[part])
            on = f != 0
            self.counts[part] = on.sum(0)
            self.per_token += on.sum(1)
            self.total += f.sum(dtype=torch.float64)
        self.squares = residual.square().sum(dtype=torch.float64)
        self._slope = residual.mul_(2 / (n * d))  # of the loss in x̂
        self.b_dec = residual.sum(0)

    def __iter__(self) -> Iterator[tuple[slice, DenseRows]]:
        """Features of the block, and their gradients."""
        for part in self._parts():
            f = self._activations(part)
            slope = torch.mm(self._slope, self._w_dec[part].T).add_(self._penalty).mul_(f != 0)
            yield part, DenseRows(torch.mm(slope.T, self._centred), torch.mm(f.T, self._slope), slope.sum(0))

    def whole(self) -> DenseRows:
        """The gradients of all features."""
        rows = DenseRows(*(torch.empty_like(w) for w in (self._w_enc, self._w_dec, self._b_enc)))
        for part, some in self:
            rows.w_enc[part], rows.w_dec[part], rows.b_enc[part] = some.w_enc, some.w_dec, some.b_enc
        return rows

    def _parts(self) -> Iterator[slice]:
        n, f = len(self._centred), len(self._w_enc)
        size = CPU_BYTES if self._centred.device.type == "cpu" else GPU_BYTES
        step = max(64, size // (self._centred.element_size() * max(1, n)))
        return (slice(first, min(first + step, f)) for first in range(0, f, step))

    def _activations(self, part: slice) -> Tensor:
        return torch.addmm(self._b_enc[part], self._centred, self._w_enc[part].T).relu_()
