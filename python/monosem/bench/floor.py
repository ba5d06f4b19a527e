"""The least time that this machine can take: products at its measured rate, bytes at its measured bandwidth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from monosem.bench import machine
from monosem.bench.workloads import Workload
from monosem.ops import backend


@dataclass(frozen=True)
class Rates:
    """What was measured: FLOP/s of a product at this width, in the precision of the encoder's product; bytes/s."""

    flops_per_second: float
    bytes_per_second: float
    product: str

    def seconds(self, flops: float, moved: float) -> float:
        """Of an operation that multiplies while it moves bytes: the longer of the two."""
        return max(flops / self.flops_per_second, moved / self.bytes_per_second)


def measure(d: int) -> Rates:
    """The rates of this machine at width D, now, with the threads that PyTorch has."""
    product = "bf16" if backend.bf16_products() else "fp32"
    dtype = torch.bfloat16 if product == "bf16" else torch.float32
    return Rates(machine.product_rate(d, dtype), machine.bandwidth(), product)


def step(w: Workload, rates: Rates) -> dict[str, Any]:
    """The floor of a training step: one encoder product, then the rows of the active features, then Adam's sweep.

    product + (gathers + Adam) / bandwidth; where rows stay in cache a step may gather faster than that.
    """
    product = w.product_flops / rates.flops_per_second
    gathers, adam = w.gather_bytes / rates.bytes_per_second, w.adam_bytes / rates.bytes_per_second
    return {
        "ms": 1e3 * (product + gathers + adam),
        "product_ms": 1e3 * product, "gathers_ms": 1e3 * gathers, "adam_ms": 1e3 * adam,
        "product_flops": w.product_flops, "gather_bytes": w.gather_bytes, "adam_bytes": w.adam_bytes,
        **asdict(rates),
    }  # fmt: skip
