"""Which features are active, and how much, by two affine maps that share their weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from monosem.nn.activations.base import Activation, Vectors
from monosem.ops import SparseCode
from monosem.ops.capacity import EncoderInputs


@dataclass(frozen=True)
class Gated(Activation):
    r"""``f = 1[π > 0] · ReLU(e^r · (π − b_enc) + b_mag)`` with the gate ``π = W_enc·(x − b_dec) + b_enc``.

    ReLU(π) decoded by a frozen decoder reconstructs the target too (a second squared error), which is how the gate
    learns; the penalty presses on ReLU(π), so that the magnitudes f do not shrink.

    Source: Rajamanoharan et al. 2024 (arXiv 2404.16014), section 3.
    """

    has_dense_form: ClassVar[bool] = True
    is_homogeneous: ClassVar[bool] = True
    compares_features: ClassVar[bool] = False
    has_frozen_fit: ClassVar[bool] = True
    vectors: ClassVar[tuple[str, ...]] = ("r_mag", "b_mag", "b_enc")

    def choose(self, inputs: EncoderInputs, vectors: Vectors) -> SparseCode:
        return inputs.entries()

    def encode(self, inputs: EncoderInputs, vectors: Vectors) -> SparseCode:
        gate = self.choose(inputs, vectors)
        entries = {name: v[gate.indices.long()] for name, v in vectors.items()}
        return replace(gate, values=self.value(gate.values, entries))

    def rescaled(self, vectors: Vectors, factors: Tensor, shift: Tensor) -> Vectors:
        magnitudes = vectors["b_mag"].double() * factors + vectors["r_mag"].double().exp() * shift
        return {"b_mag": magnitudes}

    def value(self, h: Tensor, vectors: Vectors) -> Tensor:
        return (vectors["r_mag"].exp() * (h - vectors["b_enc"]) + vectors["b_mag"]).relu() * (h > 0)
