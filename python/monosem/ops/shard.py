"""The part of a dictionary and of a batch that one process holds: all of both, unless there are several processes.

A step is written once, for a shard. Where a sum runs over all features or all tokens, or entries are compared across
features, it asks its shard; that of a single process answers with what it was given.
``train/distributed/mesh_shard.py`` has the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from monosem.ops.code import SparseCode

Gradients = TypeVar("Gradients")


class Shard(Protocol):
    """What a process holds of the features of a dictionary, and of the tokens of a batch.

    Attributes:
        is_whole: all of both.
        is_first: its features are the first ones. It adds what stands beside a sum over features once, such as a bias.
        splits_tokens: whether other processes hold other tokens of the same batch.
    """

    @property
    def is_whole(self) -> bool: ...
    @property
    def is_first(self) -> bool: ...
    @property
    def splits_tokens(self) -> bool: ...

    def rows(self, d_sae: int) -> slice:
        """The features of a dictionary of ``d_sae`` that are here: consecutive ones."""
        ...

    def tokens(self, n: int) -> int:
        """The tokens of the whole batch, of which n are here."""
        ...

    def sum_features(self, partial: Tensor) -> Tensor:
        """The sum of the shards of the same tokens; ``partial`` may be overwritten."""
        ...

    def sum_all(self, partial: Tensor) -> Tensor:
        """The sum of all shards."""
        ...

    def parts(self, n: int, of_features: Sequence[Tensor], of_tokens: Sequence[Tensor] = ()) -> list[Tensor]:
        """What this shard adds to means over the whole batch, for measurements: the sum over all shards is needed only
        where they are read. Arguments as of ``means``.
        """
        ...

    def once(self, value: Tensor) -> Tensor:
        """A number that all shards have alike, as what this one adds to a sum over all: the first has it, others 0."""
        ...

    def of_features(self, value: Tensor) -> Tensor:
        """A number of the features here, as what this shard adds to a sum over all: of replicas, one does."""
        ...

    def means(self, n: int, of_features: Sequence[Tensor], of_tokens: Sequence[Tensor] = ()) -> list[Tensor]:
        """Means over the whole batch that a step needs at once, from those over the n tokens here; all 0-dim.

        Args:
            of_features: means of sums over the features that are here.
            of_tokens: means of what all shards of the same tokens have alike.
        """
        ...

    def of_all_tokens(self, gradients: Gradients) -> Gradients:
        """The gradients of the whole batch (``nn.Gradients``), from those of the tokens that are here."""
        ...

    def largest(self, code: SparseCode, k: int) -> SparseCode:
        """The entries here that are among the k largest of their token in magnitude; ties: the lowest feature.

        Args:
            code: the largest entries of the features here, in descending order, [N, min(k, features here)].
        """
        ...

    def among_largest(self, values: Tensor, offsets: Tensor, sizes: Sequence[int]) -> Tensor:
        """How many of the entries here of each token are among the m largest of it in magnitude, for each m of
        ``sizes``: int64 [N, sizes], or one row for all tokens. Ties as in ``largest``; the last of ``sizes`` is the
        most entries that a token has.

        Args:
            values: entries of the tokens in descending order, in CSR form with ``offsets`` [N + 1].
        """
        ...

    def among_first(self, n: int, limit: int) -> int:
        """How many of the n tokens here are among the first ``limit`` of the whole batch."""
        ...

    def count(self, n: int) -> int:
        """The sum of a number of each shard."""
        ...

    def in_features(self, n: int) -> int:
        """The sum of a number of each shard of the same tokens."""
        ...

    def before(self, n: int) -> int:
        """The sum of a number over the shards of lower features."""
        ...

    def kth_largest(self, values: Tensor, k: int) -> Tensor:
        """The k-th largest of the values of all shards, 0-dim; they are at least 0."""
        ...

    def smallest(self, values: Tensor) -> Tensor:
        """The smallest of the values of all shards, 0-dim."""
        ...

    def first(self, marked: Tensor, code: SparseCode, n: int) -> Tensor:
        """Marks (bool [nnz]) of entries: of all shards' those of the n lowest tokens, then features, stay."""
        ...


class Whole:
    """The one shard of a single process."""

    is_whole, is_first, splits_tokens = True, True, False

    def rows(self, d_sae: int) -> slice:
        return slice(0, d_sae)

    def tokens(self, n: int) -> int:
        return n

    def sum_features(self, partial: Tensor) -> Tensor:
        return partial

    def sum_all(self, partial: Tensor) -> Tensor:
        return partial

    def parts(self, n: int, of_features: Sequence[Tensor], of_tokens: Sequence[Tensor] = ()) -> list[Tensor]:
        return [*of_features, *of_tokens]

    def once(self, value: Tensor) -> Tensor:
        return value

    def of_features(self, value: Tensor) -> Tensor:
        return value

    def means(self, n: int, of_features: Sequence[Tensor], of_tokens: Sequence[Tensor] = ()) -> list[Tensor]:
        return [*of_features, *of_tokens]

    def of_all_tokens(self, gradients: Gradients) -> Gradients:
        return gradients

    def largest(self, code: SparseCode, k: int) -> SparseCode:
        return code

    def among_largest(self, values: Tensor, offsets: Tensor, sizes: Sequence[int]) -> Tensor:
        return numbers_on(offsets.device, tuple(sizes))

    def among_first(self, n: int, limit: int) -> int:
        return min(n, limit)

    def count(self, n: int) -> int:
        return n

    def in_features(self, n: int) -> int:
        return n

    def before(self, n: int) -> int:
        return 0

    def kth_largest(self, values: Tensor, k: int) -> Tensor:
        return values.kthvalue(len(values) - k + 1).values

    def smallest(self, values: Tensor) -> Tensor:
        return values.amin()

    def first(self, marked: Tensor, code: SparseCode, n: int) -> Tensor:
        return marked & (marked.cumsum(0) <= n)


def numbers_on(device: torch.device, numbers: tuple[int, ...]) -> Tensor:
    """Numbers as a tensor, written by the device itself: a copy from the host cannot be part of a CUDA graph."""
    if device.type == "cpu" or not numbers:
        return torch.tensor(numbers, dtype=torch.int64, device=device)
    return torch.cat([torch.full((1,), number, dtype=torch.int64, device=device) for number in numbers])


WHOLE = Whole()
_HELD: ContextVar[Shard] = ContextVar("the shard of new autoencoders", default=WHOLE)


def held() -> Shard:
    """The shard that an autoencoder which is made now holds."""
    return _HELD.get()


@contextmanager
def holding(shard: Shard) -> Iterator[None]:
    """Autoencoders that are made within hold the parameters of this shard alone."""
    token = _HELD.set(shard)
    try:
        yield
    finally:
        _HELD.reset(token)


def within(sizes: Sequence[int], rows: slice) -> tuple[int, ...]:
    """How many of the features in ``rows`` are in each of several prefixes of all features."""
    return tuple(min(max(size - rows.start, 0), rows.stop - rows.start) for size in sizes)
