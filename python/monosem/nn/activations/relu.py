"""Every positive pre-activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from monosem.nn.activations.base import Activation, Vectors
from monosem.ops import SparseCode
from monosem.ops.capacity import EncoderInputs


@dataclass(frozen=True)
class ReLU(Activation):
    """Every positive pre-activation (*Towards Monosemanticity*, appendix "Autoencoder Architecture")."""

    has_dense_form: ClassVar[bool] = True
    is_homogeneous: ClassVar[bool] = True
    compares_features: ClassVar[bool] = False

    def encode(self, inputs: EncoderInputs, vectors: Vectors | None = None) -> SparseCode:
        return inputs.entries()

    def value(self, h: Tensor, vectors: Vectors) -> Tensor:
        return h.relu()
