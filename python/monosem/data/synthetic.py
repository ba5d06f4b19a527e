"""Activations made of known sparse features: the test of whether a dictionary finds what is there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from monosem.data.seeded import SeededBatches, check_count
from monosem.ops.precision import as_given


class SyntheticDictionary(SeededBatches):
    """x = Σⱼ cⱼ·f_{iⱼ}: sums of a few of ``n_features`` random directions, as an endless iterable of [N, d_in].

    The number of terms of a token is Poisson with mean ``active``; each term draws its feature uniformly and its
    coefficient cⱼ uniformly from [0.5, 1.5). (A feature drawn twice by a token simply has the sum.) Batch number b
    depends on the arguments and b only.

    Args:
        n_features: F, directions of unit length, uniform on the sphere.
        active: mean number of terms of a token.
        noise: standard deviation of Gaussian noise added to every value.
        batches: number of batches; None: endless.

    Attributes:
        features: the true features [F, d_in].
    """

    made = "synthetic activations"

    def __init__(
        self,
        d_in: int,
        n_features: int,
        active: float,
        seed: int = 0,
        *,
        batch_size: int = 4096,
        batches: int | None = None,
        noise: float = 0.0,
    ) -> None:
        for name, value in (("d_in", d_in), ("n_features", n_features), ("batch_size", batch_size)):
            check_count(name, value)
        if not 0 < active <= n_features:
            raise ValueError(f"active: got {active!r}; wanted a mean number of features above 0, at most {n_features}")
        super().__init__(d_in, seed, batch_size, batches)
        self.n_features, self.active, self.noise = n_features, active, noise
        self.features = F.normalize(
            torch.randn(n_features, d_in, generator=self.generator(0), dtype=torch.float32, device="cpu"), dim=1
        )

    def batch(self, number: int) -> Tensor:
        """Batch ``number`` (from 0): [batch_size, d_in], fp32."""
        generator = self.generator(1 + number)
        counts = torch.poisson(
            torch.full((self.batch_size,), float(self.active), dtype=torch.float32, device="cpu"), generator=generator
        ).long()
        total = int(counts.sum())
        chosen = torch.randint(self.n_features, (total,), generator=generator, device="cpu")
        coefficients = torch.rand(total, generator=generator, dtype=torch.float32, device="cpu") + 0.5
        starts = counts.cumsum(0) - counts
        x = F.embedding_bag(chosen, self.features, starts, mode="sum", per_sample_weights=coefficients)
        return (
            x + self.noise * torch.randn(x.shape, generator=generator, dtype=torch.float32, device="cpu")
            if self.noise
            else x
        )

    def settings(self) -> dict[str, Any]:
        names = ("d_in", "n_features", "active", "seed", "batch_size", "noise")
        return {name: getattr(self, name) for name in names}


@as_given
def mean_max_cosine(learned: Tensor, true: Tensor) -> float:
    """Mean over the true features of the greatest cosine with any learned one; 1 is perfect recovery.

    Args:
        learned: [F', D], for example ``sae.W_dec``; rows of zeros match nothing.
        true: [F, D].
    """
    if learned.ndim != 2 or true.ndim != 2 or learned.shape[1] != true.shape[1] or not len(learned) or not len(true):
        raise ValueError(
            f"learned, true: got {list(learned.shape)} and {list(true.shape)}; wanted [F', D] and [F, D], not empty"
        )
    learned, true = (F.normalize(t.detach().to(torch.float32), dim=1) for t in (learned, true))
    best = [(part @ learned.T).amax(1) for part in true.to(learned.device).split(1024)]
    return float(torch.cat(best).double().mean())
