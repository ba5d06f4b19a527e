"""Named workloads: the shapes that figures are given for, and the data they run on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Workload:
    """N tokens a step, width D, F features, K active a token."""

    n: int
    d: int
    f: int
    k: int

    def batches(self, count: int, seed: int = 0) -> list[Tensor]:
        """Sparse positive combinations of random unit directions: what a dictionary is made for."""
        g = torch.Generator().manual_seed(seed)
        directions = torch.nn.functional.normalize(torch.randn(self.f, self.d, generator=g), dim=-1)
        made = []
        for _ in range(count):
            chosen = torch.randint(self.f, (self.n, self.k), generator=g)
            weights = torch.rand(self.n, self.k, generator=g)
            x = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=weights, mode="sum")
            made.append(x)
        return made

    @property
    def product_flops(self) -> int:
        """The one product that a step cannot do without."""
        return 2 * self.n * self.d * self.f

    @property
    def gather_bytes(self) -> int:
        """Rows read in fp32 for each of K entries: decode (the slopes find them in cache) and the two gradients."""
        return 3 * self.n * self.k * self.d * 4

    @property
    def adam_bytes(self) -> int:
        """Weights and two moments of both matrices read and written in fp32."""
        return 2 * self.f * self.d * 24


WORKLOADS = {
    "small": Workload(1024, 256, 4096, 16),
    "laptop": Workload(2048, 512, 16_384, 32),
    "gpt2": Workload(4096, 768, 24_576, 32),
    "widest": Workload(8192, 512, 131_072, 32),
}
