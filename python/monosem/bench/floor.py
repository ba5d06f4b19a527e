"""The floor: the roofline lower bound on time, from the measured rate of products and the measured bandwidth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from monosem.bench import machine
from monosem.bench.workloads import Workload
from monosem.ops import backend
from monosem.ops.selection.cpu import BITS


@dataclass(frozen=True)
class Rates:
    """Measured rates of this machine at one width.

    Attributes:
        flops_per_second: of a product in the precision that the encoder multiplies in here.
        bytes_per_second: of memory, reads and writes together.
        product: that precision.
        measured: FLOP/s in each precision that the processor has.
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

    PyTorch multiplies fp32 and bf16. It has no integer product of this kind: its rate is that of the instructions
    alone, on one panel in the first cache, without selection.
    """
    product = backend.cpu_product()
    product_rates = {"fp32": machine.product_rate(d, torch.float32)}
    if machine.multiplies_bf16() or product == "bf16":
        product_rates["bf16"] = machine.product_rate(d, torch.bfloat16)
    if product in BITS:  # "sparse", where it was asked for: as of dense tokens in as many bits
        product_rates[product] = machine.int_rate(d, BITS[product])
    return Rates(product_rates[product], machine.bandwidth(), product, product_rates)


def step(w: Workload, rates: Rates) -> dict[str, Any]:
    """The floor of a training step: one encoder product, the candidates rescored, the rows of the
    active features, then Adam's sweep.

    product + (rescoring + gathers + Adam) / bandwidth; where rows stay in cache a step may gather faster than that. A
    product in fp32 has nothing to score again. The product is that of all columns, also of data that are mostly 0,
    whose step may take less. ``bf16_ms``: the same with the product in bf16 by PyTorch, where the processor has it.
    """
    product = w.product_flops / rates.flops_per_second
    gathers, adam = w.gather_bytes / rates.bytes_per_second, w.adam_bytes / rates.bytes_per_second
    once_more = w.rescore_bytes / rates.bytes_per_second
    again = 0.0 if rates.product == "fp32" else once_more
    bf16 = rates.measured.get("bf16")
    return {
        "ms": 1e3 * (product + again + gathers + adam),
        "bf16_ms": 1e3 * (w.product_flops / bf16 + once_more + gathers + adam) if bf16 else None,
        "product_ms": 1e3 * product,
        "rescore_ms": 1e3 * again,
        "gathers_ms": 1e3 * gathers,
        "adam_ms": 1e3 * adam,
        "product_flops": w.product_flops,
        "rescore_bytes": w.rescore_bytes if again else 0,
        "gather_bytes": w.gather_bytes,
        "adam_bytes": w.adam_bytes,
        **asdict(rates),
    }
