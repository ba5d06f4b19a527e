"""A shard of a mesh: consecutive features, and some tokens of each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from monosem.distributed.peers import share_of
from monosem.distributed.wire import Wire
from monosem.nn import Gradients
from monosem.ops import SparseCode
from monosem.ops.code import row_ids
from monosem.train.distributed.factors import of_all_tokens

Given = TypeVar("Given")
DIGIT = 11  # bits of a number that a round of the search for the k-th largest settles


def rows_of(d_sae: int, size: int, rank: int) -> slice:
    """The features of a rank: as ``torch.chunk`` and ``DTensor`` divide them."""
    each = -(-d_sae // size)
    return slice(min(rank * each, d_sae), min((rank + 1) * each, d_sae))


class MeshShard:
    """See ``ops.shard.Shard``. All ranks of a mesh call the same methods in the same order.

    Args:
        features: the ranks that have other features, and the same tokens.
        data: those that have other tokens, and the same features.
        world: all ranks of the mesh.
    """

    is_whole = False

    def __init__(self, features: Wire, data: Wire, world: Wire) -> None:
        self.features, self.data, self.world = features, data, world
        self._counts = [0] * data.size  # tokens of each rank of ``data``, of the present batch

    def __deepcopy__(self, memo: dict[int, Any]) -> MeshShard:
        return self  # a copy of an autoencoder is one of the same processes

    @property
    def is_first(self) -> bool:
        return self.features.rank == 0

    @property
    def splits_tokens(self) -> bool:
        return self.data.size > 1

    def share(self, x: Tensor) -> Tensor:
        """The tokens here of a batch that every rank has whole: consecutive ones, as many as elsewhere or one more."""
        shares = [share_of(len(x), rank, self.data.size) for rank in range(self.data.size)]
        self._counts = [share.stop - share.start for share in shares]
        return x[shares[self.data.rank]]

    def rows(self, d_sae: int) -> slice:
        return rows_of(d_sae, self.features.size, self.features.rank)

    def tokens(self, n: int) -> int:
        return n if self.data.size == 1 else sum(self._counts)

    def sum_features(self, partial: Tensor) -> Tensor:
        return self.features.total(partial)

    def sum_all(self, partial: Tensor) -> Tensor:
        return self.world.total(partial)

    def parts(self, n: int, of_features: Sequence[Tensor], of_tokens: Sequence[Tensor] = ()) -> list[Tensor]:
        share = 1.0 if self.data.size == 1 else n / max(1, self.tokens(n))
        own = [*of_features, *(v if self.is_first else torch.zeros_like(v) for v in of_tokens)]
        return [v.detach() * share if n else torch.zeros_like(v) for v in own]

    def once(self, value: Tensor) -> Tensor:
        return value if self.world.rank == 0 else torch.zeros_like(value)

    def of_features(self, value: Tensor) -> Tensor:
        return value if self.data.rank == 0 else torch.zeros_like(value)

    def means(self, n: int, of_features: Sequence[Tensor], of_tokens: Sequence[Tensor] = ()) -> list[Tensor]:
        if self.data.size == 1 and not of_features:
            return list(of_tokens)
        values = [*of_features, *of_tokens]
        row = torch.stack([v.detach().double() for v in values])
        split = len(of_features)
        if self.data.size == 1:
            row[:split] = self.sum_features(row[:split])
        else:
            row = row * n if n else torch.zeros_like(row)
            if not self.is_first:
                row[split:] = 0
            row = self.sum_all(row) / max(1, self.tokens(n))
        return [mean.to(v.dtype) for mean, v in zip(row, values, strict=True)]

    def of_all_tokens(self, gradients: Given) -> Given:
        if self.data.size == 1:
            return gradients
        assert isinstance(gradients, Gradients)
        return cast("Given", of_all_tokens(gradients, self.data))

    def largest(self, code: SparseCode, k: int) -> SparseCode:
        n, width = code.n_tokens, code.values.shape[-1]
        values = code.values.reshape(n, width)
        kept = torch.arange(width, device=values.device) < self._counted(values, (k,))[:, :1]
        offsets = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
        return SparseCode(values[kept], code.indices.reshape(n, width)[kept], offsets, code.d_sae, code.shape)

    def among_largest(self, values: Tensor, offsets: Tensor, sizes: Sequence[int]) -> Tensor:
        n, k = len(offsets) - 1, sizes[-1]
        tokens = row_ids(offsets, len(values))
        padded = values.new_zeros(n, k)
        padded[tokens, torch.arange(len(values), device=values.device) - offsets[tokens]] = values.detach()
        return self._counted(padded, sizes).long()

    def _counted(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """How many of the candidates here are among the m largest of their token, int32 [N, sizes].

        Each rank has a share of the tokens for which it compares the candidates of all: 4·N·k bytes are sent for the
        values and 4·N for each answer, however many ranks there are.

        Args:
            values: [N, up to k], in descending order of magnitude, k being the last of ``sizes``.
        """
        wire, (n, width), k = self.features, values.shape, sizes[-1]
        each = -(-n // wire.size)
        # 0: not active, never chosen. A rank may have fewer than k features.
        sent = values.new_zeros(each * wire.size, k)
        sent[:n, :width] = values.detach().abs()
        winners = wire.exchanged(_winners(wire.exchanged(sent.view(wire.size, each, k)), sizes))
        return winners.view(-1, len(sizes))[:n]

    def among_first(self, n: int, limit: int) -> int:
        return min(max(limit - self._before(), 0), n)

    def _before(self) -> int:
        """The tokens of the whole batch before those that are here."""
        return sum(self._counts[: self.data.rank]) if self.data.size > 1 else 0

    def count(self, n: int) -> int:
        return int(self._small(self.world, torch.tensor([n], dtype=torch.int64, device="cpu")).sum())

    def in_features(self, n: int) -> int:
        return int(self._small(self.features, torch.tensor([n], dtype=torch.int64, device="cpu")).sum())

    def before(self, n: int) -> int:
        counts = self._small(self.features, torch.tensor([n], dtype=torch.int64, device="cpu"))
        return int(counts[: self.features.rank].sum())

    def kth_largest(self, values: Tensor, k: int) -> Tensor:
        """By digits: numbers of at least 0 are ordered as their bits are. A round sums a histogram of 2,048 counts."""
        whole, bits = (torch.int32, 31) if values.dtype == torch.float32 else (torch.int64, 63)
        keys = values.detach().to(torch.float32 if bits == 31 else torch.float64).abs().view(whole).long()
        found, shift = 0, bits
        while shift:
            step = min(DIGIT, shift)
            shift -= step
            digits = (keys >> shift) & ((1 << step) - 1)
            here = torch.bincount(digits, minlength=1 << step).int()
            at_least = self.sum_all(here).flip(0).cumsum(0).flip(0)  # entries of this digit or a higher one
            digit = int((at_least >= k).sum()) - 1
            k -= int(at_least[digit + 1]) if digit + 1 < len(at_least) else 0
            keys = keys[digits == digit]
            found = found << step | digit
        number = torch.tensor(found, dtype=whole, device="cpu")
        return number.view(torch.float32 if bits == 31 else torch.float64).to(values)

    def smallest(self, values: Tensor) -> Tensor:
        mine = values.amin() if len(values) else values.new_tensor(torch.inf)
        return self.world.gathered(mine[None]).amin()

    def first(self, marked: Tensor, code: SparseCode, n: int) -> Tensor:
        if self.count(int(marked.sum())) <= n:
            return marked
        before = self._before()
        places = marked.nonzero()[:, 0]
        tokens = code.row_ids()[places] + before
        # Ordered by token, then by rank, then by feature, which is below 2³¹.
        keys = (tokens * self.features.size + self.features.rank) << 31 | code.indices[places].long()
        mine = torch.full((n,), torch.iinfo(torch.int64).max, dtype=torch.int64, device=keys.device)
        mine[: min(n, len(keys))] = keys[:n]
        of_all = self.world.gathered(mine).reshape(-1)
        last = of_all.kthvalue(n).values if n else of_all.new_tensor(-1)
        kept = torch.zeros_like(marked)
        kept[places[keys <= last]] = True
        return kept

    def _small(self, wire: Wire, mine: Tensor) -> Tensor:
        """Numbers of each rank, on the host."""
        return wire.gathered(mine.to(wire.device)).cpu()


def _winners(candidates: Tensor, sizes: Sequence[int]) -> Tensor:
    """How many of each rank's candidates are among the m largest of their token: int32 [P, tokens, sizes].

    Args:
        candidates: [P, tokens, width], of each rank in descending order; 0 where there is none. Of equal ones those of
            the lowest rank are first, and of a rank those that it has put first.
        sizes: each m, ascending.
    """
    ranks, tokens, width = candidates.shape
    answers = candidates.new_zeros(ranks, tokens, len(sizes), dtype=torch.int32)
    if not tokens:
        return answers
    together = candidates.transpose(0, 1).reshape(tokens, ranks * width)
    descending = together.topk(min(sizes[-1], ranks * width), sorted=True).values
    active, unknown = candidates > 0, candidates.isnan().any(2).any(0)
    for i, m in enumerate(sizes):
        smallest = descending[:, min(m, descending.shape[1]) - 1, None]
        above = (active & (candidates > smallest)).sum(2)
        equal = (active & (candidates == smallest)).sum(2)
        room = m - above.sum(0) - (equal.cumsum(0) - equal)
        winners = above + torch.minimum(equal, room.clamp(min=0))
        # Not numbers: a run that diverged. They must show in its loss.
        answers[:, :, i] = torch.where(unknown, width, winners)
    return answers
