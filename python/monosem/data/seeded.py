"""Activations made from a seed and the number of the batch: an endless iterable with an exact position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from monosem.data.shuffled import differences


class SeededBatches(ABC):
    """Batches [N, d_in]; batch number b depends on the settings and b only.

    Args:
        batch_size: N.
        batches: number of batches; None: endless.
    """

    made: ClassVar[str]  # what the batches are, for the fingerprint

    def __init__(self, d_in: int, seed: int, batch_size: int, batches: int | None) -> None:
        self.d_in, self.seed, self.batch_size, self.batches = d_in, seed, batch_size, batches
        self._next = 0

    @abstractmethod
    def batch(self, number: int) -> Tensor:
        """Batch ``number`` (from 0): [batch_size, d_in]."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The arguments that the batches depend on. JSON-able."""

    def __iter__(self) -> Iterator[Tensor]:
        while self.batches is None or self._next < self.batches:
            self._next += 1
            yield self.batch(self._next - 1)

    def state_dict(self) -> dict[str, Any]:
        """The number of the next batch, and what the batches depend on. JSON-able."""
        return {"batch": self._next, "settings": self.settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bitwise where ``state`` was taken.

        Raises:
            ValueError: the state belongs to other arguments; names what differs.
        """
        if different := differences(state["settings"], self.settings()):
            raise ValueError(f"state: it belongs to other {self.made} ({different}); wanted the same arguments")
        self._next = int(state["batch"])

    def fingerprint(self) -> dict[str, Any]:
        """The identity of these activations."""
        return {"kind": self.made} | self.settings()

    def generator(self, number: int) -> torch.Generator:
        """The random numbers of one purpose: 0 for what is made once, 1 + b for batch b."""
        # SplitMix64's increment keeps the seeds of neighbouring batches, and of neighbouring seeds, far apart. The last
        # number keeps them from a bare seed: an autoencoder of seed 0 must not begin at the true features of seed 0.
        seed = self.seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019
        return torch.Generator().manual_seed(seed % 2**63)


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise unless ``value`` is an integer of at least ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: got {value!r}; wanted an integer ≥ {least}")


def check_share(name: str, value: object, *, least: float = 0.0, below: bool = False) -> None:
    """Raise unless ``value`` is a number from ``least`` to 1 (``below``: 1 itself excluded)."""
    inside = isinstance(value, (int, float)) and least <= value <= 1 and not (below and value == 1)
    if not inside:
        raise ValueError(f"{name}: got {value!r}; wanted a number from {least:g} to {'below ' if below else ''}1")
