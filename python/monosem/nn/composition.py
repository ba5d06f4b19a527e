"""The parts that an autoencoder is composed of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from monosem.nn.activations import Activation
from monosem.nn.auxk import AuxK
from monosem.nn.nesting import Nesting, Prefixes, ascending
from monosem.nn.penalties import L1, Penalty, PreActivation
from monosem.ops import SparseCode
from monosem.ops.capacity import Capacity, DeadFeatureCapacity, EntryCapacity


@dataclass(frozen=True)
class Composition:
    """The parts of an autoencoder. Each knows nothing of the others.

    Attributes:
        activation: which features are active, and with what value.
        penalty: what the loss adds for active features; None: nothing.
        revival: the loss that dead features get; None: none (resampling is the trainer's).
        nesting: parts of a code that have a squared error each; None: the whole code has one.
        pre_activation: what the loss adds for features that are not active; None: nothing.
    """

    activation: Activation
    penalty: Penalty | None = None
    revival: AuxK | None = None
    nesting: Nesting | None = None
    pre_activation: PreActivation | None = None

    @property
    def is_linear(self) -> bool:
        """Whether the value of an entry is its pre-activation, and the penalty linear in it."""
        plain = self.penalty is None or (isinstance(self.penalty, L1) and self.activation.is_positive)
        return plain and not (self.activation.vectors or self.activation.has_frozen_fit or self.pre_activation)

    @property
    def by_norm(self) -> bool:
        """Whether the loss depends on the norms of decoder rows."""
        return self.pre_activation is not None or (self.penalty is not None and self.penalty.by_norm)

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the parameters, one element per feature, that the elementwise parts read."""
        parts = (self.activation, self.penalty, self.pre_activation)
        return tuple(dict.fromkeys(name for part in parts if part is not None for name in part.vectors))

    def held(self, rows: slice, d_sae: int) -> Composition:
        """The parts as a shard computes them, which has these of ``d_sae`` features."""
        nesting = None if self.nesting is None else self.nesting.held(rows)
        return replace(self, activation=self.activation.held(rows, d_sae), nesting=nesting)

    def ordered(self, code: SparseCode) -> SparseCode:
        """A code that ``activation`` chose, with the entries of each token in the order that ``nesting`` needs."""
        if isinstance(self.nesting, Prefixes) and self.activation.descends:
            return ascending(code)
        return code

    def capacity(self, d_sae: int, device: torch.device | str | None) -> Capacity:
        """What decides how a step of this composition runs on its device."""
        of_entries = self.activation.capacity(d_sae, device)
        if self.revival is None:
            return of_entries or Capacity()
        # A graph holds the weight of a penalty that it was captured with.
        replayed = not (self.activation.waits or self.penalty or self.pre_activation)
        of_dead = DeadFeatureCapacity(d_sae, used=self.revival.is_on, device=device, can_replay=replayed)
        if isinstance(of_entries, EntryCapacity):
            raise ValueError(
                f"revival: got {self.revival} with {self.activation}; wanted None, or an activation with a fixed "
                "number of entries per token or batch. Revive by TrainConfig(resample=...)"
            )
        return of_dead

    def check(self, d_sae: int) -> None:
        """Raise unless the parts go together in an autoencoder of so many features.

        Raises:
            ValueError: a nesting that does not end with all features.
        """
        if isinstance(self.nesting, Prefixes) and self.nesting.sizes[-1] != d_sae:
            raise ValueError(f"prefixes: got {self.nesting.sizes}; wanted the last to be d_sae={d_sae}")
