"""Penalties: what the loss adds for features that are active."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.ops import SparseCode


@dataclass(frozen=True)
class L1:
    """λ · Σ f, mean over tokens; rows of the decoder are unit, so that a value is a length in the reconstruction.

    Attributes:
        coefficient: λ.
    """

    coefficient: float

    def weight(self, sparsity_scale: float) -> float:
        """The penalty's slope in each value of a token."""
        return sparsity_scale * self.coefficient

    def of_tokens(self, code: SparseCode) -> Tensor:
        """Σ f of each token, float32 [N]."""
        values, _, offsets = code.csr()
        return torch.segment_reduce(values.float(), "sum", offsets=offsets, initial=0.0)
