"""Sums for the correlation of every feature with every component of the activation (the neurons, at an MLP hook)."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem import ops
from monosem.distributed.peers import Peers


class NeuronMoments:
    """Streaming Σ f·x [F, D], Σ x and Σ x² [D] over tokens."""

    def __init__(self, d_sae: int, d_in: int) -> None:
        self.product = torch.zeros(d_sae, d_in, dtype=torch.float32, device="cpu")
        self.sum = torch.zeros(d_in, dtype=torch.float64, device="cpu")
        self.square = torch.zeros(d_in, dtype=torch.float64, device="cpu")

    def update(self, features: Tensor, values: Tensor, at: Tensor, x: Tensor) -> None:
        x = x.float().cpu()
        offsets = torch.zeros(len(x) + 1, dtype=torch.int64, device="cpu")
        offsets[1:] = torch.bincount(at, minlength=len(x)).cumsum(0)
        starts, entries, tokens = ops.csc(features.int(), offsets, len(self.product))
        self.product += ops.row_grad(starts, entries, tokens, values, x)
        self.sum += x.double().sum(0)
        self.square += x.double().square().sum(0)

    def add_over(self, peers: Peers) -> None:
        """Make these the sums over the tokens of all processes, of which each has read some."""
        for sums in self.arrays().values():
            peers.add_(sums)

    def arrays(self) -> dict[str, Tensor]:
        return {"product": self.product, "sum": self.sum, "square": self.square}


def correlation(product: Tensor, f: Tensor, f2: Tensor, x: Tensor, x2: Tensor, tokens: int) -> Tensor:
    """Pearson's r of some features with every component, float64 [features, D], from sums over the same tokens.

    Args:
        product: Σ f·x [features, D].
        f, f2: Σ f and Σ f² [features]. x, x2: Σ x and Σ x² [D].
    """
    n = max(tokens, 1)
    f, x = f.double()[:, None] / n, x / n
    scale = ((f2.double()[:, None] / n - f.square()).clamp_min(0) * (x2 / n - x.square()).clamp_min(0)).sqrt()
    return torch.where(scale > 0, (product.double() / n - f * x) / scale.clamp_min(1e-300), 0.0)
