"""Activations: which features are active, with what value, and how a step encodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from monosem import ops
from monosem.ops import SparseCode
from monosem.ops.capacity import Capacity, Encoded, EncoderInputs, EntryCapacity, Result, Step
from monosem.ops.step_stats import phase


class Activation(Protocol):
    """``f = act(W_enc·(x − b_dec) + b_enc)``.

    Attributes:
        has_dense_form: whether a step may run by dense products, which its capacity decides.
    """

    has_dense_form: ClassVar[bool]

    def encode(self, inputs: EncoderInputs) -> SparseCode:
        """The active features of ``inputs.x`` [..., d_in], differentiable in x, w and b."""
        ...

    def through(self, values: Tensor, slopes: Tensor) -> Tensor:
        """Gradient of each entry's pre-activation, from that of its value; both [nnz]."""
        ...

    def capacity(self, d_sae: int, device: torch.device | str | None) -> Capacity | None:
        """What decides how a step runs where the number of entries depends on the data; None where it is fixed."""
        ...

    def run(self, step: Step[Result], capacity: Capacity) -> tuple[Result, int]:
        """The result of a step, and for how many tokens there was no capacity at first, so that it ran twice."""
        ...


@dataclass(frozen=True)
class TopK:
    """ReLU of the k largest pre-activations of each token (Gao et al. 2024, section 2.3)."""

    has_dense_form: ClassVar[bool] = False
    k: int

    def encode(self, inputs: EncoderInputs) -> SparseCode:
        return ops.topk_encode(inputs.x, inputs.w, inputs.b, self.k, inputs.encoder_copy)

    def through(self, values: Tensor, slopes: Tensor) -> Tensor:
        return torch.where(values > 0, slopes, 0)

    def capacity(self, d_sae: int, device: torch.device | str | None) -> None:
        return None

    def run(self, step: Step[Result], capacity: Capacity) -> tuple[Result, int]:
        phase("encode")
        return step.sparse(Encoded(self.encode(step.inputs))), 0


@dataclass(frozen=True)
class ReLU:
    """Every positive pre-activation (*Towards Monosemanticity*, appendix "Autoencoder Architecture")."""

    has_dense_form: ClassVar[bool] = True

    def encode(self, inputs: EncoderInputs) -> SparseCode:
        return ops.threshold_encode(inputs.x, inputs.w, inputs.b)

    def through(self, values: Tensor, slopes: Tensor) -> Tensor:
        return slopes  # every entry is positive

    def capacity(self, d_sae: int, device: torch.device | str | None) -> EntryCapacity:
        return EntryCapacity(d_sae, device)

    def run(self, step: Step[Result], capacity: Capacity) -> tuple[Result, int]:
        assert isinstance(capacity, EntryCapacity)  # made by the method above
        return capacity.run(step)
