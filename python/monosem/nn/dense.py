"""The ReLU autoencoder's gradients by dense products, a block of features at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from monosem.nn.gradients import RowOptimizer
from monosem.ops import capacity
from monosem.ops.precision import as_given
from monosem.ops.sparse_decode import weighted_sum
from monosem.ops.step_stats import phase


class DenseBlocks:
    """Gradients multiplied out, used while so many features fire that dense products are cheaper than gathering rows.

    No array has the size of tokens × features or of a weight matrix. The reconstruction needs all features and comes
    first. Then the activations of each block are computed again for its gradients, which costs six products instead of
    five. A block's gradients depend on no weight of another block, so ``update`` can change one block after the other.

    Args:
        x: [N, D], the target of the reconstruction. ``centred``: x − b_dec.
        w_enc, w_dec: rows [F, D]; ``b_enc``: [F]; ``b_dec``: [D].
        penalty: gradient of the loss in each active feature's value, by sparsity.

    Attributes:
        squares: Σ (x̂ − x)²; ``total``: Σ f; both 0-dim float64.
        counts: int64 [F], tokens on which each feature fires; ``per_token``: int64 [N], features that fire.
        b_dec: gradient of the decoder bias through the decoder, [D].
    """

    @as_given
    def __init__(
        self, x: Tensor, *, centred: Tensor, w_enc: Tensor, w_dec: Tensor, b_enc: Tensor, b_dec: Tensor, penalty: float
    ) -> None:
        (n, d), features = x.shape, len(w_enc)
        self._w_enc, self._w_dec, self._b_enc = w_enc.detach(), w_dec.detach(), b_enc.detach()
        self._centred, self._penalty, self._used = centred, penalty, False
        self._step = min(features, max(64, capacity.block_bytes(x.device) // (x.element_size() * max(1, n))))
        # Reused by all blocks: allocating them anew costs more than the work done in them.
        self._f, self._other = x.new_empty(n * self._step), x.new_empty(n * self._step)
        self._on = torch.empty(n * self._step, dtype=torch.bool, device=x.device)
        number = torch.promote_types(x.dtype, torch.float32)  # integers below 2²⁴ are exact in it
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

    def update(self, optimizer: RowOptimizer) -> dict[str, Tensor]:
        """Update both matrices block by block; returns the gradients of the biases."""
        phase("dense_sweep")
        self._use()
        b_enc, b_dec = torch.empty_like(self._b_enc), self.b_dec
        for part in self._parts():
            # All reads of this block's rows stand before the two updates, which change them.
            w_enc, w_dec, b_enc[part] = self._gradients(part)
            b_dec = b_dec - weighted_sum(b_enc[part], self._w_enc[part])
            optimizer.update_rows("W_enc_rows", part, w_enc)
            optimizer.update_rows("W_dec", part, w_dec)
        return {"b_enc": b_enc, "b_dec": b_dec}

    def multiplied(self) -> dict[str, Tensor]:
        """The gradients of all features."""
        phase("dense_gradients")
        self._use()
        w_enc, w_dec, b_enc = (torch.empty_like(w) for w in (self._w_enc, self._w_dec, self._b_enc))
        for part in self._parts():
            w_enc[part], w_dec[part], b_enc[part] = self._gradients(part)
        b_dec = self.b_dec - weighted_sum(b_enc, self._w_enc)
        return {"W_enc_rows": w_enc, "W_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec}

    def _use(self) -> None:
        if self._used:  # the weights may have changed since
            raise RuntimeError(
                "gradients: asked for a second time; wanted once per batch. Call sae.gradients(x) again."
            )
        self._used = True

    @as_given
    def _gradients(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the encoder rows, decoder rows and biases of a block, from its present weights."""
        f, on, slope = self._activations(part)
        torch.mm(self._slope, self._w_dec[part].T, out=slope).add_(self._penalty).mul_(on)
        return torch.mm(slope.T, self._centred), torch.mm(f.T, self._slope), slope.sum(0)

    def _parts(self) -> Iterator[slice]:
        features = len(self._w_enc)
        return (slice(first, min(first + self._step, features)) for first in range(0, features, self._step))

    @as_given
    def _activations(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Activations of a block, a mask of those that are not 0, and a scratch array, all [N, its features]."""
        n, width = len(self._centred), part.stop - part.start
        f, on, other = (t[: n * width].view(n, width) for t in (self._f, self._on, self._other))
        torch.addmm(self._b_enc[part], self._centred, self._w_enc[part].T, out=f).relu_()
        return f, torch.ne(f, 0, out=on), other
