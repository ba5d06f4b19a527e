"""Which features fire on the same tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.analysis.index.space_saving import SpaceSaving
from monosem.distributed.peers import Peers
from monosem.ops.precision import as_given

EXACT_BYTES = 1 << 30  # every pair of up to 16,384 features is counted; above that the commonest partners of each
_NARROW = 1024  # up to so many features a dense product of the on/off matrices is cheaper than listing pairs
_PAIRS = 1 << 22  # pairs listed at a time
STRONGEST = 64  # features of one token that are paired


class Cooccurrence:
    """Counts of tokens on which two features fire together.

    Up to 16,384 features: of every pair, [F, F] int32. Above: for each feature of its commonest ``slots`` partners,
    by :class:`SpaceSaving`. Only the 64 strongest features of a token are paired (all of them up to 1,024 features), so
    that a dense code does not cost the square of its density; ``active`` [F] counts the tokens that took part.

    Args:
        replayed: the partners of :class:`SpaceSaving`, which depend on the order of the text, are counted by ``replay``
            when all of it is there, and not by ``update``.
    """

    def __init__(self, d_sae: int, slots: int, replayed: bool = False) -> None:
        self.d_sae, self.slots, self.replayed = d_sae, slots, replayed
        self.active = torch.zeros(d_sae, dtype=torch.int64, device="cpu")
        exact = d_sae * d_sae * 4 <= EXACT_BYTES
        self.pairs = torch.zeros(d_sae, d_sae, dtype=torch.int32, device="cpu") if exact else None
        self.commonest = None if exact else SpaceSaving(d_sae, d_sae, slots)

    @as_given
    def update(self, features: Tensor, values: Tensor, at: Tensor, tokens: int) -> None:
        """Count a block of ``tokens`` tokens; entries are sorted by token."""
        if self.d_sae <= _NARROW and self.pairs is not None:
            on = torch.zeros(tokens, self.d_sae, dtype=torch.float32, device="cpu")
            on[at, features] = 1.0
            both = (on.T @ on).round_().int()
            self.active += both.diagonal()
            self.pairs += both.fill_diagonal_(0)
            return
        features, at = _strongest(features, values, at, tokens)
        self.active += torch.bincount(features, minlength=self.d_sae)
        if self.pairs is not None or not self.replayed:
            self._count_all(features, at, tokens, slice(0, self.d_sae))

    def replay(self, features: Tensor, values: Tensor, at: Tensor, tokens: int, own: slice) -> None:
        """Count the partners of some features in a block: those of a pass over all blocks in order."""
        if self.pairs is None:
            self._count_all(*_strongest(features, values, at, tokens), tokens, own)

    def _count_all(self, features: Tensor, at: Tensor, tokens: int, own: slice) -> None:
        sizes = torch.bincount(at, minlength=tokens)
        starts = sizes.cumsum(0) - sizes
        ends = sizes[at].cumsum(0)  # pairs up to and with each entry
        first = done = 0
        while first < len(at):
            end = max(first + 1, int(torch.searchsorted(ends, done + _PAIRS, right=True)))
            self._count(features, features[first:end], at[first:end], starts, sizes, own)
            first, done = end, int(ends[end - 1])

    def _count(self, features: Tensor, left: Tensor, at: Tensor, starts: Tensor, sizes: Tensor, own: slice) -> None:
        """Pair those entries ``left``, whose tokens are ``at``, that are in ``own`` with all entries of their token."""
        if own != slice(0, self.d_sae):
            mine = (left >= own.start) & (left < own.stop)
            left, at = left[mine], at[mine]
        times = sizes[at]
        left = torch.repeat_interleave(left, times)
        begin = torch.repeat_interleave(starts[at] - (times.cumsum(0) - times), times)
        right = features[begin + torch.arange(len(left), device="cpu")]
        other = left != right
        left, right = left[other], right[other]
        if self.pairs is not None:
            cell = left * self.d_sae + right
            self.pairs.view(-1).index_add_(0, cell, torch.ones_like(cell, dtype=torch.int32))
        else:
            self._sparse().update(left, right, torch.ones(len(left), dtype=torch.float32, device="cpu"))

    def _sparse(self) -> SpaceSaving:
        """The commonest partners, which stand in for the counts of all pairs."""
        assert self.commonest is not None
        return self.commonest

    def partners(self, tokens: int, block: int = 512) -> tuple[Tensor, Tensor]:
        """(features, counts), each int32 [F, slots]: the partners by phi, best first; −1 where there is none."""
        slots = min(self.slots, self.d_sae)
        ids = torch.full((self.d_sae, slots), -1, dtype=torch.int32, device="cpu")
        counts = torch.zeros_like(ids)
        every = torch.arange(self.d_sae, device="cpu")
        for start in range(0, self.d_sae, block):
            mine = every[start : start + block]
            both = (self.pairs if self.pairs is not None else self._sparse().counts)[mine]
            other = every if self.pairs is not None else self._sparse().ids[mine].long()
            score = phi(both, self.active[mine, None], self.active[other.clamp_min(0)], tokens)
            best = torch.where(both > 0, score, -torch.inf).topk(slots, dim=1).indices
            together = both.gather(1, best)
            names = other[best] if self.pairs is not None else other.gather(1, best)
            ids[mine] = torch.where(together > 0, names, -1).int()
            counts[mine] = together
        return ids, counts

    def merge(self, peers: Peers, own: slice) -> None:
        """Of all processes; of partners, each has those of its features, ``own``."""
        peers.add_(self.active)
        if self.pairs is not None:
            peers.add_(self.pairs)
        else:
            self._sparse().put_together(peers, own)

    def arrays(self) -> dict[str, Tensor]:
        own = {"pairs": self.pairs} if self.pairs is not None else self._sparse().arrays()
        return {"active": self.active} | own


def phi(both: Tensor, left: Tensor, right: Tensor, tokens: int) -> Tensor:
    """Correlation of two on/off variables from counts: (n·n_fg − n_f·n_g) / √(n_f (n − n_f) n_g (n − n_g))."""
    both, left, right = both.double(), left.double(), right.double()
    scale = (left * (tokens - left) * right * (tokens - right)).sqrt()
    return torch.where(scale > 0, (tokens * both - left * right) / scale.clamp_min(1), 0.0)


def _strongest(features: Tensor, values: Tensor, at: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """The entries that are among the 64 strongest of their token, in order of the tokens."""
    sizes = torch.bincount(at, minlength=tokens)
    if not len(at) or int(sizes.max()) <= STRONGEST:
        return features, at
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(at[order], stable=True)]
    rank = torch.arange(len(at), device="cpu") - (sizes.cumsum(0) - sizes)[at[order]]
    order = order[rank < STRONGEST].sort().values
    return features[order], at[order]
