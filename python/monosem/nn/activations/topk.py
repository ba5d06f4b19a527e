"""A fixed number of features per token: TopK, and TopK by magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monosem import ops
from monosem.nn.activations.base import Activation, Vectors
from monosem.ops import SparseCode
from monosem.ops.capacity import EncoderInputs


@dataclass(frozen=True)
class TopK(Activation):
    """ReLU of the k largest pre-activations of each token (Gao et al. 2024, section 2.3)."""

    is_homogeneous: ClassVar[bool] = True
    descends: ClassVar[bool] = True
    k: int

    def encode(self, inputs: EncoderInputs, vectors: Vectors | None = None) -> SparseCode:
        k = min(self.k, len(inputs.w))  # a shard may have fewer features
        code = ops.topk_encode(inputs.x, inputs.w, inputs.b, k, inputs.encoder_copy, inputs.frequency)
        return inputs.shard.largest(code, self.k)

    def through(self, values: Tensor, slopes: Tensor) -> Tensor:
        return torch.where(values > 0, slopes, 0)


@dataclass(frozen=True)
class AbsTopK(Activation):
    """The k pre-activations of each token that are largest in magnitude, with their sign; ties: the lowest feature.

    A feature then has two directions, a concept and its opposite. Source: Zhu et al. 2025 (arXiv 2510.00404).
    """

    is_homogeneous: ClassVar[bool] = True
    descends: ClassVar[bool] = True
    is_positive: ClassVar[bool] = False
    k: int

    def encode(self, inputs: EncoderInputs, vectors: Vectors | None = None) -> SparseCode:
        # The k largest of h and the k largest of −h hold the k largest of |h|: two exact selections, no array [N, F].
        k = min(self.k, len(inputs.w))  # a shard may have fewer features
        up = ops.topk_encode(inputs.x, inputs.w, inputs.b, k, inputs.encoder_copy, inputs.frequency)
        down = ops.topk_encode(-inputs.x, inputs.w, -inputs.b, k, frequency=inputs.frequency)
        signed = torch.cat([up.values, -down.values], -1)
        indices = torch.cat([up.indices, down.indices], -1)
        by_feature = indices.sort(dim=-1, stable=True).indices
        signed, indices = signed.gather(-1, by_feature), indices.gather(-1, by_feature)
        largest = signed.detach().abs().sort(dim=-1, descending=True, stable=True).indices[..., :k]
        code = SparseCode(signed.gather(-1, largest), indices.gather(-1, largest), None, up.d_sae, up.shape)
        return inputs.shard.largest(code, self.k)

    def through(self, values: Tensor, slopes: Tensor) -> Tensor:
        return torch.where(values != 0, slopes, 0)
