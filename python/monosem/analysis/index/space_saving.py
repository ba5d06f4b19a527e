"""The commonest companions of each feature in bounded memory: tokens it fires on, features it fires with."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.distributed.peers import Peers


class SpaceSaving:
    """For each of F rows the ``slots`` commonest of very many things, with their counts and summed weights.

    Space-Saving (Metwally, Agrawal, El Abbadi 2005) in batches: a thing that comes when all places are taken inherits
    ``floor``, the largest total that was ever put out, as the number that may have been missed. So its true count
    lies in [count, count + missed], whatever happens more than ``floor`` ≤ N/slots times is among those kept, and all
    is exact where no more than ``slots`` different things occur. Rows do not depend on each other; a row depends on the
    order of its occurrences, and two of the same row from two parts of a text cannot be merged to that of the whole.
    """

    def __init__(self, rows: int, things: int, slots: int) -> None:
        self.things, self.slots = things, slots
        self.ids = torch.full((rows, slots), -1, dtype=torch.int32, device="cpu")
        self.counts = torch.zeros(rows, slots, dtype=torch.int32, device="cpu")
        self.missed = torch.zeros(rows, slots, dtype=torch.int32, device="cpu")
        self.sums = torch.zeros(rows, slots, dtype=torch.float32, device="cpu")
        self.floor = torch.zeros(rows, dtype=torch.int32, device="cpu")

    def update(self, rows: Tensor, ids: Tensor, weights: Tensor) -> None:
        """Count occurrences, each [nnz]: of thing ``ids`` in row ``rows``."""
        if not len(rows):
            return
        pair, inverse, counts = torch.unique(rows * self.things + ids, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(pair), dtype=torch.float32, device="cpu").index_add_(0, inverse, weights)
        rows, ids, counts = pair // self.things, (pair % self.things).int(), counts.int()
        known = torch.cat([self._add_known(*part) for part in _pieces(rows, ids, counts, sums)])
        if not known.all():
            new = ~known
            self._insert(rows[new], ids[new], counts[new], sums[new])

    def _add_known(self, rows: Tensor, ids: Tensor, counts: Tensor, sums: Tensor) -> Tensor:
        hit, slot = (self.ids[rows] == ids[:, None]).max(1)
        cell = (rows * self.slots + slot)[hit]
        self.counts.view(-1).index_add_(0, cell, counts[hit])
        self.sums.view(-1).index_add_(0, cell, sums[hit])
        return hit

    def _insert(self, rows: Tensor, ids: Tensor, counts: Tensor, sums: Tensor) -> None:
        touched, group = torch.unique_consecutive(rows, return_inverse=True)
        held = (self.ids[touched] >= 0).flatten().nonzero().flatten()
        every = lambda mine, new: torch.cat([mine[touched].flatten()[held], new])
        group = torch.cat([held // self.slots, group])
        ids, sums = every(self.ids, ids), every(self.sums, sums)
        missed, counts = every(self.missed, self.floor[rows]), every(self.counts, counts)
        total = counts + missed
        order = torch.argsort(total, descending=True, stable=True)
        order = order[torch.argsort(group[order], stable=True)]
        group = group[order]
        sizes = torch.bincount(group, minlength=len(touched))
        rank = torch.arange(len(order), device="cpu") - (sizes.cumsum(0) - sizes)[group]
        out = rank >= self.slots
        floor = self.floor[touched].scatter_reduce_(0, group[out], total[order][out], "amax")
        self.floor[touched] = floor
        cell = (touched[group] * self.slots + rank)[~out]
        order = order[~out]
        for mine, new in ((self.ids, ids), (self.counts, counts), (self.missed, missed), (self.sums, sums)):
            mine.view(-1)[cell] = new[order]

    def put_together(self, peers: Peers, own: slice) -> None:
        """All rows in every process, of which each has those in ``own``: a row is never updated in two of them."""
        for array in self.arrays().values():
            array[: own.start] = 0
            array[own.stop :] = 0
            peers.add_(array)

    def arrays(self) -> dict[str, Tensor]:
        return {k: getattr(self, k) for k in ("ids", "counts", "missed", "sums", "floor")}


def _pieces(*columns: Tensor, size: int = 1 << 18):
    return zip(*(column.split(size) for column in columns), strict=True)
