"""AuxK revives dead features: its loss, and its terms in the gradients, by gathering rows or by products with all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monosem import ops
from monosem.nn.gradients import RowFactors
from monosem.ops import SparseCode, step_stats
from monosem.ops.capacity import DeadFeatureCapacity
from monosem.ops.code import uniform_offsets
from monosem.ops.precision import as_given
from monosem.ops.shard import Shard

BYTES = 64 << 20  # of an array of tokens × dead features: tokens are processed in blocks of this size


@dataclass(frozen=True)
class DeadFeatures:
    """R dead features: their numbers (int64 [R]), encoder rows [R, D] and encoder biases [R].

    Attributes:
        decoder: the decoder rows of all features [F, D]: the few that a token uses are read where they are.
    """

    numbers: Tensor
    w_enc: Tensor
    bias: Tensor
    decoder: Tensor

    @property
    def w_dec(self) -> Tensor:
        """Their decoder rows [R, D]."""
        return self.decoder[self.numbers]

    def named(self, local: Tensor) -> Tensor:
        """The features of entries (int32) that number these from 0."""
        return self.numbers[local.long()].int()


@dataclass(frozen=True)
class AuxK:
    """With e = x − x̂ held fixed, the largest of the dead features reconstruct it, ê = W_dec·z: ``mean_D (e − ê)²``.

    Its gradient reaches encoder and decoder of the dead features, and ``b_dec`` through the encoder's input, so that
    they come alive again (Gao et al. 2024, section A.2).

    Attributes:
        most: dead features that a token uses, if so many are dead.
        coefficient: weight in the loss.
        every: the loss is the mean over every so many-th token of the batch (of each process, where several share it).
            In a batch in random order that is the mean over all of them in expectation, at a fraction of the time.
    """

    most: int
    coefficient: float
    every: int = 1

    @property
    def is_on(self) -> bool:
        return bool(self.most and self.coefficient)

    def size(self, n_dead: int) -> int:
        """Dead features that a token uses."""
        return min(self.most, n_dead) if self.is_on else 0

    def read(self, rows: Tensor) -> Tensor:
        """Those of the batch's tokens [N, …] that the loss reads."""
        return rows if self.every == 1 else rows[:: self.every].contiguous()

    def loss(self, dead: DeadFeatures, inputs: Tensor, residual: Tensor) -> Tensor:
        """The definition, 0-dim; differentiable in inputs (centred) and in the rows and biases of ``dead``."""
        if not (size := self.size(len(dead.numbers))):
            return residual.new_zeros(())
        inputs, residual = self.read(inputs), self.read(residual)
        code = ops.topk_encode(inputs, dead.w_enc, dead.bias, size)
        no_bias = dead.decoder.new_zeros(residual.shape[-1])
        token_aux, _ = ops.decode_loss(code, dead.w_dec, no_bias, -residual.detach())
        return token_aux.mean()

    def entries(
        self, dead: DeadFeatures, inputs: Tensor, residual: Tensor, capacity: DeadFeatureCapacity
    ) -> ExtraTokens | None:
        """The terms that it adds to the gradients of a batch; None where no feature is dead."""
        if not (size := self.size(len(dead.numbers))):
            return None
        by_all = capacity.products_are_cheaper(len(dead.numbers), size)
        step_stats.aux("dense" if by_all else "gathered", len(dead.numbers), size)
        n, inputs, residual = len(residual), self.read(inputs), self.read(residual)
        extra = (by_products if by_all else by_gathering)(dead, inputs, residual, size, self.coefficient)
        return extra.for_batch(n / max(1, len(residual)))

    def shared(self, dead: DeadFeatures, shard: Shard, inputs: Tensor, residual: Tensor) -> ExtraTokens | None:
        """The same where ``dead`` are those of a shard: the largest are chosen from the dead of all shards."""
        n_dead = int(shard.sum_features(torch.tensor(len(dead.numbers), device=inputs.device, dtype=torch.int64)))
        if not (size := self.size(n_dead)):
            return None
        step_stats.aux("gathered", n_dead, size)
        n, inputs, residual = len(residual), self.read(inputs), self.read(residual)
        times = n / max(1, len(residual))
        extra = by_sharing(dead, shard, inputs, residual, size, self.coefficient, n)
        return replace(extra.for_batch(times), slopes=extra.slopes.mul_(times))


@dataclass(frozen=True)
class ExtraTokens:
    """Entries that stand beside the batch's own, as M further tokens with a residual and an input of their own.

    Attributes:
        loss: the AuxK loss, a mean over tokens and D, before its weight; 0-dim.
        values, indices, slopes: of each entry; ``offsets`` [M + 1] from 0.
        residual, inputs: [M, D].
        bias: gradient of each entry's encoder bias, where it is not its slope.
    """

    loss: Tensor
    values: Tensor
    indices: Tensor
    offsets: Tensor
    slopes: Tensor
    residual: Tensor
    inputs: Tensor
    bias: Tensor | None = None

    def for_batch(self, times: float) -> ExtraTokens:
        """The same where the decoder's gradient is divided by ``times`` as many tokens as the loss is a mean over."""
        return self if times == 1 else replace(self, residual=self.residual.mul_(times))

    def below(self, batch: RowFactors) -> RowFactors:
        """The factors of the batch with these entries below its own; the batch has no unused places."""
        return self._beside(batch, first=False)

    def above(self, batch: RowFactors) -> RowFactors:
        """The same with these entries first: unused places of the batch stay behind the last entry."""
        return self._beside(batch, first=True)

    def _beside(self, batch: RowFactors, first: bool) -> RowFactors:
        def joined(of_batch: Tensor, own: Tensor) -> Tensor:
            return torch.cat([own, of_batch] if first else [of_batch, own])

        bias = None
        if self.bias is not None or batch.bias is not None:
            own_bias = self.slopes if self.bias is None else self.bias
            bias = joined(batch.slopes if batch.bias is None else batch.bias, own_bias)
        before, after = (self.offsets, batch.offsets) if first else (batch.offsets, self.offsets)
        input_of = batch.input_of
        if input_of is not None:
            rows = torch.arange(len(self.inputs), device=input_of.device)
            input_of = joined(input_of + len(rows), rows) if first else joined(input_of, rows + len(batch.inputs))
        nothing = torch.zeros_like(self.values)
        return replace(
            batch,
            values=joined(batch.values, self.values),
            indices=joined(batch.indices, self.indices),
            offsets=torch.cat([before, before[-1] + after[1:]]),
            slopes=joined(batch.slopes, self.slopes),
            residual=joined(batch.residual, self.residual),
            inputs=joined(batch.inputs, self.inputs),
            bias=bias,
            input_of=input_of,
            of_entries={name: joined(coef, nothing) for name, coef in batch.of_entries.items()},
            norms=None if batch.norms is None else replace(batch.norms, coef=joined(batch.norms.coef, nothing)),
        )


def by_gathering(dead: DeadFeatures, inputs: Tensor, residual: Tensor, size: int, weight: float) -> ExtraTokens:
    """AuxK on inputs [N, D] (centred) whose residual x̂ − x [N, D] the ``size`` largest of R features reconstruct.

    Each token stands a second time, with the entries of its dead features.

    Args:
        weight: of the AuxK loss in the loss.
    """
    n, d = residual.shape
    code = ops.topk_encode(inputs, dead.w_enc, dead.bias, size)
    z, indices = code.values.reshape(-1), dead.named(code.indices.reshape(-1))
    offsets = uniform_offsets(n, size, inputs.device)
    no_bias = dead.decoder.new_zeros(d)
    token_aux, left, slopes = ops.decode_loss_rows(z, indices, offsets, dead.decoder, no_bias, -residual)
    return ExtraTokens(
        loss=token_aux.mean(),
        values=z,
        indices=indices,
        offsets=offsets,
        slopes=torch.where(z > 0, slopes, 0).mul_(weight / n),
        residual=left.mul_(weight),
        inputs=inputs,
    )


def by_sharing(
    dead: DeadFeatures, shard: Shard, inputs: Tensor, residual: Tensor, size: int, weight: float, n: int
) -> ExtraTokens:
    """``by_gathering`` in a shard: its dead features compete with those of the others, and reconstruct with them.

    Args:
        n: tokens of the batch that are here; the loss is divided by those of all shards.
    """
    (read, d), here = residual.shape, len(dead.numbers)
    nothing = torch.zeros(read, 0, device=inputs.device, dtype=inputs.dtype)
    code = SparseCode(nothing, nothing.int(), None, here, inputs.shape[:-1])
    if here:
        code = ops.topk_encode(inputs, dead.w_enc, dead.bias, min(size, here))
    z, local, offsets = shard.largest(code, size).csr()
    indices = dead.named(local)
    decoded = shard.sum_features(ops.sparse_decode(z, indices, offsets, dead.decoder, dead.decoder.new_zeros(d)))
    left = decoded + residual
    (loss,) = shard.parts(n, (), (left.square().mean(),))
    slopes = ops.gather_dot(left, indices, offsets, dead.decoder).mul_(2 / d)
    return ExtraTokens(
        loss=loss,
        values=z,
        indices=indices,
        offsets=offsets,
        slopes=slopes.mul_(weight / shard.tokens(n)),
        residual=left.mul_(weight),
        inputs=inputs,
    )


def by_products(dead: DeadFeatures, inputs: Tensor, residual: Tensor, size: int, weight: float) -> ExtraTokens:
    """The same by products with all R features, while they are so few that gathering rows costs more.

    The gradient rows of each dead feature stand as a further token with one entry.
    """
    (n, d), r = residual.shape, len(dead.numbers)
    sums = dense(dead, inputs, residual, size)
    ones, share = inputs.new_ones(r), 2 * weight / (n * d)
    return ExtraTokens(
        loss=sums.loss,
        values=ones,
        indices=dead.numbers.int(),
        offsets=uniform_offsets(r, 1, inputs.device),
        slopes=ones,
        residual=sums.decoder.mul_(weight),
        inputs=sums.encoder.mul_(share),
        bias=sums.bias * share,
    )


@dataclass(frozen=True)
class DenseAux:
    """The AuxK loss of a batch, and the sums that its gradients consist of.

    With the error of the reconstruction ê − e [N, D] and z [N, R], the activations of the dead features:

    Attributes:
        loss: 0-dim.
        decoder: zᵀ·(ê − e) [R, D].
        encoder: sᵀ·inputs [R, D], with s = (ê − e)·w_decᵀ where z > 0.
        bias: Σ s [R].
    """

    loss: Tensor
    decoder: Tensor
    encoder: Tensor
    bias: Tensor


@as_given
def dense(dead: DeadFeatures, inputs: Tensor, residual: Tensor, size: int) -> DenseAux:
    n, d = residual.shape
    w_enc, w_dec, bias = dead.w_enc, dead.w_dec, dead.bias
    decoder, encoder = torch.zeros_like(w_dec), torch.zeros_like(w_enc)
    slopes, squares = torch.zeros_like(bias), torch.zeros((), dtype=torch.float64, device=inputs.device)
    block = max(1, BYTES // (inputs.element_size() * len(w_enc)))
    for x, error in zip(inputs.split(block), residual.split(block), strict=True):
        z = torch.addmm(bias, x, w_enc.T)
        if size < len(w_enc):
            is_largest = torch.zeros_like(z).scatter_(1, z.topk(size, sorted=False).indices, 1.0)
            z = z.relu_().mul_(is_largest)
        else:
            z = z.relu_()
        left = torch.addmm(error, z, w_dec)
        squares += torch.linalg.vector_norm(left, dim=1).double().square().sum()
        slope = torch.mm(left, w_dec.T).mul_(z > 0)
        slopes += slope.sum(0)
        encoder.addmm_(slope.T, x)
        decoder.addmm_(z.T, left)
    return DenseAux((squares / (n * d)).to(inputs.dtype), decoder, encoder, slopes)
