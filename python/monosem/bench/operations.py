"""Every operation by itself: its least products and bytes, its floor, and its time relative to the floor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from monosem import ops
from monosem.bench import floor, machine
from monosem.bench.floor import Rates
from monosem.bench.workloads import Workload
from monosem.ops import gpu, reference
from monosem.ops.code import SparseCode, uniform_offsets


@dataclass(frozen=True)
class Operation:
    """One call, with the FLOPs and the bytes that no implementation can avoid.

    Bytes: each input read once and each output written once, in fp32 (features and tokens int32, entries and offsets
    int64); a row that is gathered counts every time, as the rows of a batch do not stay in cache at these sizes.

    ``waits``: on a GPU the host waits for what it computes, so that it cannot be captured as a graph.
    """

    name: str
    call: Callable[[], Any]
    flops: int
    moved: int
    waits: bool = False


def operations(w: Workload, device: torch.device | str = "cpu", encoded: bool = True) -> list[Operation]:
    """All operations of ``monosem.ops`` that a training step of this workload uses, on its data, made on the device.

    Args:
        encoded: the others work on the code that the encoder gives; False: on one that is drawn, so that none of our
            kernels runs before it is asked for.
    """
    device = torch.device(device)
    directions = w.directions(device=device)
    x = w.batches(1, directions)[0]
    bias = torch.full((w.f,), w.bias(directions, x), dtype=torch.float32, device=device)
    w_dec, b_dec = directions, torch.zeros(w.d, device=device, dtype=torch.float32)
    moved, moved_bias = directions.clone(), bias.clone()  # written in place
    n, d, f = w.n, w.d, w.f
    if w.fixed_k:
        rounded = _Rounded(w_dec)
        encode, name = (lambda: ops.topk_encode(x, w_dec, bias, w.k, rounded())), "topk_encode"
    else:
        encode, name = (lambda: ops.threshold_encode(x, w_dec, bias)), "threshold_encode"
    code = encode() if encoded else drawn(w, device)
    values, indices, offsets = code.csr()
    e = len(values)  # active entries: N·K for TopK
    if encoded:
        _, residual, slopes = ops.decode_loss_rows(values, indices, offsets, w_dec, b_dec, x)
        starts, entries, tokens = ops.csc(indices, offsets, f)
    else:
        residual, slopes = x * 0.1, values * 0.1
        starts, entries, tokens = reference.csc(indices, offsets, f)
    m, v = torch.zeros_like(w_dec), torch.zeros_like(w_dec)
    g = w_dec.flip(0) * 1e-4
    adam = (w.lr, 0.9, 0.999, 1e-8, 10, True)
    matrix, batch, rows, listed = 4 * f * d, 4 * n * d, 4 * e * d, 8 * e
    # Where the optimizer keeps a copy in bf16 the product reads that, and the candidates' rows are scored again.
    read = matrix // 2 + rows if w.fixed_k and gpu.copy_dtype(w_dec) is not None else matrix
    dead = (
        torch.randperm(f, generator=torch.Generator().manual_seed(0), device="cpu")[: max(1, f // 100)]
        .sort()
        .values.to(device)
    )
    alive = torch.ones(f, dtype=torch.bool, device=device).index_fill_(0, dead, False)
    fresh = x[torch.arange(len(dead), device=device) % n]
    return [
        # The number of active entries is the size of what threshold_encode returns.
        Operation(name, encode, w.product_flops, batch + read + listed, waits=name == "threshold_encode"),
        Operation("sparse_decode", lambda: ops.decode(code, w_dec, b_dec), 2 * e * d, rows + batch + listed),
        Operation(
            "decode_loss",
            lambda: ops.decode_loss_rows(values, indices, offsets, w_dec, b_dec, x),
            4 * e * d,
            rows + 2 * batch + 12 * e,
        ),
        Operation("gather_dot", lambda: ops.gather_dot(x, indices, offsets, w_dec), 2 * e * d, rows + batch + listed),
        Operation("csc", lambda: ops.csc(indices, offsets, f), 0, 16 * e + 8 * (n + f)),
        Operation("feature_sum", lambda: ops.feature_sum(starts, entries, slopes), e, 12 * e + 12 * f),
        Operation(
            "row_grad",
            lambda: ops.row_grad(starts, entries, tokens, slopes, residual),
            2 * e * d,
            rows + matrix + 16 * e,
        ),
        Operation("row_adam_", lambda: ops.row_adam_(moved, m, v, g, *adam), 16 * f * d, 7 * matrix),
        Operation(
            "row_grad_adam_",
            lambda: ops.row_grad_adam_(moved, m, v, starts, entries, tokens, slopes, residual, 1.0, *adam),
            2 * e * d + 16 * f * d,
            rows + 6 * matrix + 16 * e,
        ),
        Operation(
            "encoder_grad_adam_",
            lambda: ops.encoder_grad_adam_(moved, m, v, starts, entries, tokens, slopes, residual, None, *adam[:5]),
            e + 2 * e * d + 18 * f * d,
            rows + 6 * matrix + 16 * e + 8 * f,
        ),
        Operation(
            "resample_",
            lambda: ops.resample_(moved, moved, moved_bias, [m, v], dead, fresh, alive, 0.2),
            2 * f * d,
            matrix + 5 * 4 * len(dead) * d,
        ),
    ]


class _Rounded:
    """The encoder's rows as the optimizer writes them for the product of the next step, in bfloat16 or int8: built on
    first use in that precision. None where the product does not use them."""

    def __init__(self, w: torch.Tensor) -> None:
        self.w = w
        self.copies: dict[torch.dtype, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        dtype = gpu.copy_dtype(self.w)
        if dtype is not None and dtype not in self.copies and (copy := gpu.empty_copy(self.w)) is not None:
            gpu.round_into(*copy, self.w)
            self.copies[dtype] = copy
        return None if dtype is None else self.copies[dtype]


def drawn(w: Workload, device: torch.device) -> SparseCode:
    """K different features per token, ascending, with random values, as an encoder could return."""
    g = torch.Generator(device).manual_seed(2)
    step = w.f // w.k  # one feature out of each K-th of them
    indices = torch.randint(step, (w.n, w.k), generator=g, device=device, dtype=torch.int32)
    indices += step * torch.arange(w.k, dtype=torch.int32, device=device)
    values = torch.rand(w.n, w.k, generator=g, dtype=torch.float32, device=device)
    return SparseCode(
        values.reshape(-1), indices.reshape(-1), uniform_offsets(w.n, w.k, device), w.f, torch.Size([w.n])
    )


def compare(
    w: Workload, *, rounds: int = 7, say: Callable[[str], None] = lambda _: None, rates: Rates | None = None
) -> dict[str, Any]:
    """Time all operations, interleaved in rounds, and return the measurements as plain data."""
    began = time.time()
    about_machine = machine.describe()
    say("measuring the machine")
    rates = rates or floor.measure(w.d)
    todo = operations(w)
    times: list[list[float]] = [[] for _ in todo]
    with torch.no_grad():
        for number in range(rounds + 1):
            say(f"operations, round {number}/{rounds}")
            for op, seconds in zip(todo, times, strict=True):
                begin = time.perf_counter()
                op.call()
                if number:  # the first warms up
                    seconds.append(time.perf_counter() - begin)
    return {
        "what": "operations",
        "workload": w.to_json(),
        "machine": about_machine,
        "floor": floor.step(w, rates),
        "seconds": round(time.time() - began, 1),
        "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
        "rows": [summary(op, seconds, rates) for op, seconds in zip(todo, times, strict=True)],
    }


def summary(op: Operation, times: list[float], rates: Rates) -> dict[str, Any]:
    """A row as plain data."""
    floor_seconds, middle = rates.seconds(op.flops, op.moved), statistics.median(times)
    return {
        "name": op.name,
        "ms": 1e3 * middle,
        "fastest_ms": 1e3 * min(times),
        "flops": op.flops,
        "bytes": op.moved,
        "floor_ms": 1e3 * floor_seconds,
        "to_floor": middle / floor_seconds,
        "bound": "product" if op.flops / rates.flops_per_second > op.moved / rates.bytes_per_second else "bytes",
        "flops_per_second": op.flops / middle,
        "bytes_per_second": op.moved / middle,
    }
