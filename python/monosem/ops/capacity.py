"""How the operations of a step run: dense or sparse, and on a GPU with how much space for results of unknown size.

A kernel writes to arrays whose size the host must know. The host does not synchronise to learn how many entries or dead
features there are: it reserves a capacity by the statistics of two steps before (``ops/delayed_stats.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from monosem.ops import delayed_stats, gpu, step_stats
from monosem.ops.code import SparseCode
from monosem.ops.delayed_stats import LAG, DelayedStats, PendingCopy
from monosem.ops.shard import WHOLE, Shard
from monosem.ops.structs import EncoderCopy
from monosem.ops.threshold_encode import threshold_encode, threshold_encode_within

DENSE_ABOVE = 0.1  # share of active features above which dense products are faster than gathering rows
MAX_SLOTS = 1024  # on a GPU: largest number of entries per token for which the sparse path reserves space
# FLOP of products in fp32 per byte of gathered rows, in the same time. A GPU: 10 on an A100, 18 on an H100, at their
# best. A processor: measured, the rows are in its cache; both ways cost the same at 6 times as many dead features as a
# token uses, products a fifth with fewer than it may use.
FLOP_PER_BYTE = {"cuda": 12, "cpu": 3}

# Bytes of the activations of a block of features in dense products. On a CPU products of this size are as fast as
# larger ones, and a step needs little memory beyond its weights; on a GPU larger products are faster.
BLOCK_BYTES = {"cuda": 64 << 20, "cpu": 2 << 20}


def block_bytes(device: torch.device) -> int:
    """The size of a block on this device."""
    return BLOCK_BYTES.get(device.type, BLOCK_BYTES["cuda"])


def bucketed_capacity(count: float) -> int:
    """A capacity of at least ``count``, in steps of an eighth of a power of two, so that shapes seldom change."""
    grain = max(64, 1 << max(0, int(count).bit_length() - 3))
    return -(-int(count) // grain) * grain


class Capacity(nn.Module):
    """The scheduling of an autoencoder without any: each step runs as it is called."""

    def expect(self, most: int, mean: float) -> None:
        """Set how many features are active per token, at most and on average, before a first step has measured it.

        No effect where that number is fixed.
        """

    def decision(self) -> Hashable | None:
        """All that the next step's launches depend on beside the shape of its batch, on a GPU; None where it may
        synchronise.

        Steps of one decision can be replayed from a CUDA graph of one of them; ``replayed`` must follow each.
        """
        return None

    def replayed(self) -> None:
        """A graph that holds a step was replayed: begin to copy its statistics to the host."""


class DeadFeatureCapacity(Capacity):
    """The dead features that AuxK may use.

    On a GPU it has capacity for as many as were dead LAG steps ago, and some more. Dead features beyond the capacity,
    the last by number, are left out for a step or two.

    Args:
        used: whether AuxK is on.
        can_replay: whether a step may be replayed from a CUDA graph.
    """

    stats_history: Tensor  # [LAG, 1]: number of dead features

    def __init__(
        self, d_sae: int, used: bool, device: torch.device | str | None = None, can_replay: bool = True
    ) -> None:
        super().__init__()
        self._d_sae, self._used, self._stats, self._can_replay = d_sae, used, DelayedStats(), can_replay
        history = torch.zeros(LAG, 1, device=device, dtype=torch.float32)
        self.register_buffer("stats_history", history, persistent=False)

    def decision(self) -> int | None:
        """The capacity; None where steps cannot be replayed."""
        if not self._can_replay:
            return None
        return self._capacity() if self._used else 0

    def replayed(self) -> None:
        if self._used:
            self._stats.fetch(self.stats_history)

    def rows(self, dead: Tensor, bias: Tensor, waits: bool = False) -> tuple[Tensor, Tensor]:
        """The dead features (of the mask ``dead``, bool [F]), int64 [R], and their elements of ``bias`` [F].

        On a GPU, R is the capacity. Where it is larger than the number of dead features, feature 0 fills the rest, with
        a bias with which it never fires. With ``waits``, R is their number there too.
        """
        if waits or not gpu.asynchronous(dead):
            rows = dead.nonzero()[:, 0]
            return rows, bias[rows]
        capacity, count = self._capacity(), dead.sum()
        self._stats.record(self.stats_history, count[None])
        step_stats.capacity(count, capacity)
        place = dead.cumsum(0) - 1
        place = torch.where(dead & (place < capacity), place, capacity)  # the others share one place behind the last
        features = torch.arange(self._d_sae, device=dead.device)
        rows = features.new_zeros(capacity + 1).scatter_(0, place, features)[:capacity]
        is_dead = features[:capacity] < count
        rows = torch.where(is_dead, rows, 0)
        return rows, torch.where(is_dead, bias[rows], torch.finfo(bias.dtype).min / 2)

    def products_are_cheaper(self, rows: int, size: int) -> bool:
        """Whether to multiply with all ``rows`` dead features rather than gather the ``size`` that a token uses.

        Products: five of tokens × rows × D, 2 FLOP each. Gathering: ``size`` rows of 4·D bytes per token, read once to
        be decoded, once in each of the two sweeps over features, and 1.3 times to score candidates. Tokens and D are in
        both.
        """
        flop_per_byte = FLOP_PER_BYTE.get(self.stats_history.device.type, FLOP_PER_BYTE["cuda"])
        return 5 * 2 * rows <= flop_per_byte * 4.3 * 4 * size

    def _capacity(self) -> int:
        (count,) = self._stats.read(self.stats_history)
        return min(self._d_sae, bucketed_capacity(count))


class HasEntries(Protocol):
    """A result of a step that knows the mean number of entries per token that it was computed from, 0-dim."""

    @property
    def entries(self) -> Tensor: ...


Result = TypeVar("Result", bound=HasEntries)


@dataclass(frozen=True)
class EncoderInputs:
    """The arguments of ``ops.threshold_encode``, and the encoder rows in low precision (of ``ops.topk_encode``).

    ``frequency``: of ``ops.topk_encode``. ``shard``: which features these rows are.
    """

    x: Tensor
    w: Tensor
    b: Tensor
    encoder_copy: EncoderCopy | None = None
    threshold: Tensor | None = None
    frequency: Tensor | None = None
    shard: Shard = WHOLE

    def entries(self) -> SparseCode:
        """The entries above the threshold, in arrays of the size that they need."""
        return threshold_encode(self.x, self.w, self.b, self.threshold, self.encoder_copy)


@dataclass(frozen=True)
class Encoded:
    """The code of a batch of N tokens.

    Attributes:
        kept: bool [N], the tokens whose entries are in it; None: all. The others have no entry and must not count.
    """

    code: SparseCode
    kept: Tensor | None = None


@dataclass(frozen=True)
class Step(Generic[Result]):
    """A step on one batch, in two ways that give the same result.

    Attributes:
        sparse: the step, given the code.
        dense: the step, and the number of entries of each token [N]; None: there is only the other way.
    """

    inputs: EncoderInputs
    sparse: Callable[[Encoded], Result]
    dense: Callable[[], tuple[Result, Tensor]] | None

    def exact(self) -> Result:
        """The sparse way, with a code of the size that it needs; synchronises with a GPU to learn it."""
        step_stats.phase("encode")
        return self.sparse(Encoded(self.inputs.entries()))


class EntryCapacity(Capacity):
    """Dense or sparse products, and the capacity for the entries of a ReLU code.

    Products are dense while more than a tenth of the features fire (the beginning of training). ``density`` has the
    share in the last batch, which decides for the next.

    On a GPU, the statistics of LAG steps ago decide, and the entries get twice the capacity that they used then.
    Whether all of them fit is read while the GPU decodes. Where they do not, the batch is encoded once more, with a
    synchronisation. A CUDA graph cannot do that: there tokens whose entries do not fit are marked (``Encoded.kept``).
    """

    density: Tensor  # 0-dim
    stats_history: Tensor  # [LAG, 2]: most entries of a token, and the mean

    def __init__(self, d_sae: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self._d_sae, self._stats = d_sae, DelayedStats()
        self.register_buffer("density", torch.ones((), dtype=torch.float32, device=device), persistent=False)
        history = torch.full((LAG, 2), float(d_sae), dtype=torch.float32, device=device)
        self.register_buffer("stats_history", history, persistent=False)

    def expect(self, most: int, mean: float) -> None:
        self.density.fill_(mean / self._d_sae)
        self.stats_history.copy_(torch.tensor([float(most), mean], dtype=torch.float32, device="cpu"))

    def run(self, step: Step[Result]) -> tuple[Result, int]:
        """The result of a step, and for how many tokens there was no capacity at first, so that it ran twice."""
        x, redone = step.inputs.x, 0
        if step.dense is None:
            result = step.exact()
        elif not gpu.asynchronous(x) or not step.inputs.shard.is_whole:  # no shard may repeat a step by itself
            result = step.dense()[0] if self.density > DENSE_ABOVE else step.exact()
        elif (capacity := self._capacity(len(x))) is None:
            result, per_token = step.dense()
            self._record(per_token.amax().double(), per_token.sum().double() / len(x))
        else:
            result, redone = self._within(capacity, step, step.dense)
        self.density.copy_(result.entries / self._d_sae)
        return result, redone

    def _within(
        self, capacity: tuple[int, int], step: Step[Result], dense: Callable[[], tuple[Result, Tensor]]
    ) -> tuple[Result, int]:
        x, n = step.inputs.x, len(step.inputs.x)
        values, indices, offsets, counts, kept = threshold_encode_within(
            x, step.inputs.w, step.inputs.b, *capacity, step.inputs.encoder_copy, step.inputs.threshold
        )
        code = SparseCode(values, indices, offsets, self._d_sae, x.shape[:-1])
        entries = counts.sum()
        self._record(counts.amax(), entries / n)
        step_stats.capacity(entries, capacity[0])
        if delayed_stats.capturing(x):
            return step.sparse(Encoded(code, kept)), 0
        fits = PendingCopy(torch.stack([kept.sum(), entries]))
        result = step.sparse(Encoded(code))
        n_kept, n_entries = fits.get()  # meanwhile the GPU decodes
        if n_kept == n:
            return result, 0
        del result, code, values, indices  # their memory is free for the second attempt
        is_dense = n_entries > DENSE_ABOVE * self._d_sae * n
        return dense()[0] if is_dense else step.exact(), int(n - n_kept)

    def _capacity(self, n: int) -> tuple[int, int] | None:
        """Capacity for the entries of n tokens, in all and per token; None where the products should be dense."""
        most, mean = self._stats.read(self.stats_history)
        slots = max(256, 1 << int(2 * most).bit_length())
        if mean > DENSE_ABOVE * self._d_sae or slots > MAX_SLOTS:
            return None
        return bucketed_capacity(2 * mean * n + slots), slots

    def _record(self, most: Tensor, mean: Tensor) -> None:
        self._stats.record(self.stats_history, torch.stack([most, mean]))
