"""The largest pre-activations of a whole batch, k per token on average; a threshold takes their place at inference."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from monosem import ops
from monosem.nn.activations.base import Activation, Vectors
from monosem.ops import SparseCode
from monosem.ops.capacity import EncoderInputs
from monosem.ops.shard import Shard

KEPT = 0.99  # share of the running threshold that a batch leaves as it is
# Entries above the guess beyond those that are needed, as a share: where batches are alike, and where they are not.
SPARE = 0.15  # what costs least
MOST_SPARE = 1.5  # more entries cost less than a second product
_LESS = 0.99  # share of the spare entries that a batch leaves which did not need them


class BatchThreshold(nn.Module):
    """What a BatchTopK autoencoder keeps from batch to batch; buffers, 0-dim.

    Attributes:
        threshold: mean of the smallest values that batches used: of all of them at first, then a moving one of which
            the last counts ``1 − KEPT``. 0 before the first. With it a token is encoded by itself.
        seen: batches that it is the mean of, up to ``1 / (1 − KEPT)``.
        guess: a threshold that a little more than the entries needed will exceed. It decides how long the choice takes,
            never which entries are chosen.
        spare: how many more, as a share: the more, the more batches have differed.
    """

    threshold: Tensor
    seen: Tensor
    guess: Tensor
    spare: float

    def __init__(self, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros((), device=device, dtype=dtype))
        self.register_buffer("seen", torch.zeros((), device=device, dtype=dtype))
        self.register_buffer("guess", torch.zeros((), device=device, dtype=dtype), persistent=False)
        self.spare = SPARE

    @torch.no_grad()
    def update(self, smallest: Tensor) -> None:
        """Take account of a batch whose smallest value is this."""
        self.seen.add_(1).clamp_(max=1 / (1 - KEPT))
        self.threshold.lerp_(smallest, 1 / self.seen)


@dataclass(frozen=True)
class BatchTopK(Activation):
    r"""The N·k largest positive pre-activations of a batch of N tokens (Bussmann et al. 2024, arXiv 2412.06410).

    Among equal ones those of the lowest token are chosen, then those of the lowest feature. Where fewer than N·k are
    positive, all of them. A token by itself (``encode``) has the features above a running mean of the smallest value
    that batches used: its code does not depend on the tokens beside it.

    Attributes:
        k: active features per token, on average; N·k is rounded down.
        state: the running threshold.
    """

    is_homogeneous: ClassVar[bool] = True
    waits: ClassVar[bool] = True
    k: float
    state: BatchThreshold

    def encode(self, inputs: EncoderInputs, vectors: Vectors | None = None) -> SparseCode:
        return _above(inputs, self.state.threshold)

    def choose(self, inputs: EncoderInputs, vectors: Vectors | None = None) -> SparseCode:
        code, above = self._at_least(inputs)
        shard = inputs.shard
        wanted, found = self._wanted(code, shard), shard.count(len(code.values))
        chosen = code if found <= wanted else _cut(code, wanted, shard)
        if self.state.training and min(found, wanted):
            smallest = shard.smallest(chosen.values.detach())
            self.state.update(smallest)
            values = code.values.detach()
            self.state.guess.copy_(_next_guess(above, values, found, smallest, wanted, self.state.spare, shard))
        return chosen

    def _wanted(self, code: SparseCode, shard: Shard) -> int:
        return int(self.k * shard.tokens(code.n_tokens))

    def _at_least(self, inputs: EncoderInputs) -> tuple[SparseCode, Tensor]:
        """All entries above a threshold low enough that N·k are among them, or all positive ones; the threshold."""
        state, guess, shard = self.state, self.state.guess, inputs.shard
        if guess > 0:
            code = _above(inputs, guess)
            wanted, found = self._wanted(code, shard), shard.count(len(code.values))
            if found >= wanted:
                state.spare = max(SPARE, _LESS * state.spare)
                return code, guess
            if found:  # as many spare entries would have been needed
                state.spare = min(MOST_SPARE, (1 + state.spare) * (1 + SPARE) * wanted / found - 1)
                guess = _lower(guess, code.values.detach(), found, (1 + SPARE) * wanted, shard)
                code = _above(inputs, guess)
                if shard.count(len(code.values)) >= wanted:
                    return code, guess
        bound = self._bound(inputs)
        return _above(inputs, bound), bound

    @torch.no_grad()
    def _bound(self, inputs: EncoderInputs) -> Tensor:
        """A threshold that N·k entries exceed, if as many are positive.

        Of the 2k largest of every token, as many as are needed exceed it: so do at least as many of all entries.
        """
        k, shard = min(len(inputs.w), math.ceil(2 * self.k)), inputs.shard
        some = ops.topk_encode(inputs.x, inputs.w, inputs.b, k, inputs.encoder_copy, inputs.frequency)
        values, wanted = some.values.flatten(), self._wanted(some, shard)
        bound = values.new_zeros(())
        if wanted:
            bound = shard.kth_largest(values, min(wanted, shard.count(len(values))))
        lower = torch.nextafter(bound, bound.new_zeros(()))  # entries equal to the bound are above it
        # TopK and ReLU round their sums alike, but for the threshold that is taken off the bias of one of them.
        return (lower - 1e-5 * (1 + lower)).clamp(min=0)


def _above(inputs: EncoderInputs, threshold: Tensor) -> SparseCode:
    """The entries above a threshold, 0-dim."""
    return replace(inputs, threshold=threshold.expand(len(inputs.w))).entries()


def _cut(code: SparseCode, wanted: int, shard: Shard) -> SparseCode:
    """The ``wanted`` largest entries of a code in CSR form, in their order; of equal ones, the first."""
    values, indices, offsets = code.csr()
    v = values.detach()
    smallest = shard.kth_largest(v, wanted)
    keep = v > smallest
    keep |= shard.first(v == smallest, code, wanted - shard.count(int(keep.sum())))
    before = torch.cat([offsets.new_zeros(1), keep.cumsum(0)])
    places = keep.nonzero()[:, 0]
    return SparseCode(values[places], indices[places], before[offsets], code.d_sae, code.shape)


def _lower(guess: Tensor, values: Tensor, found: int, aim: float, shard: Shard) -> Tensor:
    """A threshold below a guess that ``aim`` entries exceed, if they are as dense there as just above it, or denser."""
    nearest = max(1, found // 8)
    width = shard.kth_largest(values, found - nearest + 1) - guess
    return (guess - width * ((aim - found) / nearest)).clamp(min=0)


def _next_guess(
    above: Tensor, values: Tensor, found: int, smallest: Tensor, wanted: int, spare: float, shard: Shard
) -> Tensor:
    """A threshold that about ``(1 + spare) · wanted`` entries of the next batch exceed, if it is like this one.

    Args:
        values: the entries of this batch above ``above``, ``found`` in all shards; ``smallest`` is the ``wanted``-th.
    """
    aim = int((1 + spare) * wanted)
    if found > (1 + 2 * spare) * wanted:
        return shard.kth_largest(values, aim)
    # The entries between the two thresholds say how dense they are there.
    more = max(1, found - wanted)
    step = ((smallest - above) * ((aim - wanted) / more)).clamp(min=0)
    return torch.maximum(smallest - torch.minimum(step, 0.1 * (1 + spare) * smallest), smallest.new_zeros(()))
