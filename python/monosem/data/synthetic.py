"""Activations made of known sparse features: the test of whether a dictionary finds what is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from monosem.data.shuffled import differences
from monosem.ops.precision import as_given


class SyntheticDictionary:
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
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}; wanted an integer ≥ 1")
        if not 0 < active <= n_features:
            raise ValueError(f"active: got {active!r}; wanted a mean number of features above 0, at most {n_features}")
        self.d_in, self.n_features, self.active, self.seed = d_in, n_features, active, seed
        self.batch_size, self.batches, self.noise = batch_size, batches, noise
        self.features = F.normalize(
            torch.randn(n_features, d_in, generator=self._generator(0), dtype=torch.float32, device="cpu"), dim=1
        )
        self._next = 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.batches is None or self._next < self.batches:
            self._next += 1
            yield self.batch(self._next - 1)

    def batch(self, number: int) -> Tensor:
        """Batch ``number`` (from 0): [batch_size, d_in], fp32."""
        generator = self._generator(1 + number)
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

    def state_dict(self) -> dict[str, Any]:
        """The number of the next batch, and what the batches depend on. JSON-able."""
        return {"batch": self._next, "settings": self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bitwise where ``state`` was taken.

        Raises:
            ValueError: the state belongs to other arguments; names what differs.
        """
        if different := differences(state["settings"], self._settings()):
            raise ValueError(
                f"state: it belongs to other synthetic activations ({different}); wanted the same arguments"
            )
        self._next = int(state["batch"])

    def fingerprint(self) -> dict[str, Any]:
        """The identity of these activations."""
        return {"kind": "synthetic activations"} | self._settings()

    def _settings(self) -> dict[str, Any]:
        names = ("d_in", "n_features", "active", "seed", "batch_size", "noise")
        return {name: getattr(self, name) for name in names}

    def _generator(self, number: int) -> torch.Generator:
        # SplitMix64's increment keeps the seeds of neighbouring batches, and of neighbouring seeds, far apart. The last
        # number keeps them from a bare seed: an autoencoder of seed 0 must not begin at the true features of seed 0.
        seed = self.seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019
        return torch.Generator().manual_seed(seed % 2**63)


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
