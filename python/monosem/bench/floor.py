"""The least time that this machine can take: products at its measured rate, bytes at its measured bandwidth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from monosem.bench import machine
from monosem.bench.workloads import Workload
from monosem.ops import backend


@dataclass(frozen=True)
class Rates:
    """What was measured at this width.

    Attributes:
        flops_per_second: of a product in the precision that the encoder multiplies in here.
        bytes_per_second: of memory, reads and writes together.
        product: that precision.
        measured: FLOP/s of PyTorch's product in each precision that the processor has.
    """

    flops_per_second: float
    bytes_per_second: float
    product: str
    measured: dict[str, float] = field(default_factory=dict)

    def seconds(self, flops: float, moved: float) -> float:
        """Of an operation that multiplies while it moves bytes: the longer of the two."""
        return max(flops / self.flops_per_second, moved / self.bytes_per_second)


def measure(d: int) -> Rates:
    """The rates of this machine at width D, now, with the threads that PyTorch has.

    Nobody else multiplies 16-bit whole numbers, so their rate is not measured: an instruction does twice as many of
    their multiplications as of fp32's, and twice the rate of fp32 is what no implementation can pass.
    """
    product = backend.cpu_product()
    found = {"fp32": machine.product_rate(d, torch.float32)}
    if machine.multiplies_bf16() or product == "bf16":
        found["bf16"] = machine.product_rate(d, torch.bfloat16)
    rate = 2 * found["fp32"] if product == "int16" else found[product]
    return Rates(rate, machine.bandwidth(), product, found)


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
