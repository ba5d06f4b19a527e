"""For each of many lists the entries that rank highest: top activations, or a uniform random sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monosem.distributed.peers import Peers, in_parts

_LOGICAL = {30: (1 << 34) - 1, 27: (1 << 37) - 1, 31: (1 << 33) - 1}


def scramble(number: Any, seed: int) -> Any:
    """A random-looking number in [0, 2⁶²) for each int64 of a tensor or array: the finalizer of SplitMix64 (Steele et
    al., 2014).

    The same for the same number and seed, so a sample ranked by it depends neither on how
    the text is cut into blocks nor on an interruption.
    """
    x = number * -7046029254386353131 + (seed + 1) * 6364136223846793005 % (1 << 62)
    x = (x ^ (x >> 30 & _LOGICAL[30])) * -4658895280553007687
    x = (x ^ (x >> 27 & _LOGICAL[27])) * -7723592293110705685
    return (x ^ (x >> 31 & _LOGICAL[31])) & ((1 << 62) - 1)


class Reservoir:
    """``size`` entries of each of ``lists`` lists, [lists, size]: values, and places in the text (−1: empty).

    Args:
        rank: ``"value"`` keeps the largest values, of equal ones the first to come; ``"random"`` keeps a uniform
            sample without replacement, in random order. Two random samples of disjoint entries merge exactly.
    """

    def __init__(self, lists: int, size: int, rank: str, seed: int = 0, wide: bool = True) -> None:
        self.size, self.rank, self.seed = size, rank, seed
        self.values = torch.zeros(lists, size, dtype=torch.float32, device="cpu")
        self.places = torch.full((lists, size), -1, dtype=torch.int64 if wide else torch.int32, device="cpu")

    def key(self, values: Tensor, places: Tensor) -> Tensor:
        """What entries are ranked by; −1 for an empty place."""
        if self.rank == "value":
            return torch.where(places < 0, -1.0, values)
        return torch.where(places < 0, -1, scramble(places.long(), self.seed))

    def clears(self, lists: Tensor, values: Tensor, places: Tensor) -> Tensor:
        """Which entries beat the last one kept in their list: bool [nnz]."""
        return self.key(values, places) > self.key(self.values[lists, -1], self.places[lists, -1])

    def update(self, lists: Tensor, values: Tensor, places: Tensor) -> None:
        """Offer entries, each [nnz]."""
        new = self.clears(lists, values, places)
        lists, values, places = lists[new], values[new], places[new]
        order = torch.argsort(self.key(values, places), descending=True, stable=True)
        order = order[torch.argsort(lists[order], stable=True)]
        touched, group, sizes = torch.unique_consecutive(lists[order], return_inverse=True, return_counts=True)
        if not len(touched):
            return
        rank = torch.arange(len(order), device="cpu") - (sizes.cumsum(0) - sizes)[group]
        fits = rank < self.size
        group, rank, order = group[fits], self.size + rank[fits], order[fits]
        both_values = self.values.new_zeros(len(touched), 2 * self.size)
        both_places = self.places.new_full(both_values.shape, -1)
        both_values[:, : self.size], both_places[:, : self.size] = self.values[touched], self.places[touched]
        both_values[group, rank], both_places[group, rank] = values[order], places[order].to(both_places)
        self.values[touched], self.places[touched] = self.best(both_values, both_places)

    def best(self, values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The first ``size`` by rank of each row of candidates."""
        order = torch.argsort(self.key(values, places), dim=1, descending=True, stable=True)[:, : self.size]
        return values.gather(1, order), places.gather(1, order)

    def merge(self, peers: Peers) -> None:
        """Of all processes, in the first one. Of equal values those of the lower rank count as the first to come."""
        for part in in_parts(self.values, 3 * peers.size):
            values, places = (
                peers.gathered(mine[part]).transpose(0, 1).flatten(1) for mine in (self.values, self.places)
            )
            if peers.is_first:
                self.values[part], self.places[part] = self.best(values, places)

    def arrays(self) -> dict[str, Tensor]:
        return {"values": self.values, "places": self.places}
