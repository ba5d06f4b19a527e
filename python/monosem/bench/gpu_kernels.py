"""The kernels of a training step, one by one: how often each runs, how long, and its distance from its floor.

On a GPU ``torch.profiler`` tells; where it sees no kernel (in Triton's interpreter, or where tracing is forbidden) each
launch of ours is timed from outside.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from monosem.bench import floor
from monosem.bench.workloads import Workload

STEPS = 3
Launches = dict[str, list[float]]  # kernel → microseconds of each of its launches in one step


@dataclass(frozen=True)
class Work:
    """Least work of a kernel in any implementation, all its launches of a step together.

    ``moved``: inputs read once, outputs written once; a gathered row every time, as the rows of a batch do not stay in
    cache at these sizes. How many candidates there are depends on the data: the fewest are counted, N·K.
    """

    flops: int
    moved: int


def of_step(w: Workload, adam_state: str = "fp32") -> list[tuple[str, Work]]:
    """(Regular expression of a kernel's whole name, its work), Triton's kernels and those of CUDA; the first one holds.

    All that a step launches of ours is in it; what is not has no floor: PyTorch's own, or no part of a step. Nothing at
    all must be done for rows to be computed again (``redo``, ``emit``) and for windows of hot features (``windows``):
    how many of them there are depends on the data, and as a rule there are none.
    """
    n, d, f, k = w.n, w.d, w.f, w.k
    e = n * k
    rows, batch, matrix = 4 * e * d, 4 * n * d, 4 * f * d
    moments = {"fp32": 8, "bf16": 4, "int8": 2}[adam_state] * f * d
    sample = min(f // 4, 1024)
    sweep = 2 * matrix + 2 * moments  # weights and moments of a matrix, read and written
    reduced = rows + 16 * e  # rows gathered for a gradient; entry, token and coefficient of each
    nothing, bits = Work(0, 0), max(1, f.bit_length())
    passes = -(-bits // 10)  # of the radix sort (csrc/cuda/csc.cu)
    tiles = -(-e // 2048) << -(-bits // passes)  # counters of a pass
    sort = {
        "sort_count_kernel": Work(0, passes * (4 * e + 4 * tiles)),
        "sort_scan_kernel": Work(0, passes * 8 * tiles),
        # Each pass reads features and, after the first, entries; writes both, the last 8 bytes per entry and its token.
        "sort_place_kernel": Work(0, passes * (8 * e + 8 * e + 4 * tiles)),
        "sort_starts_kernel": Work(0, 4 * e + 8 * f),
    }
    named = {
        "round_rows": Work(0, batch + batch // 2),
        "quantize_rows": Work(0, batch + batch // 4 + 16 * n),  # int8 is read twice as fast as the product below says
        # Selection by a threshold from a sample, or by products in a slab.
        "sample": Work(2 * n * sample * d, batch // 2 + 2 * sample * d + 4 * n * sample),
        "set_threshold": Work(0, 4 * n * sample + 4 * n),
        "collect": Work(w.product_flops, batch // 2 + matrix // 2 + 8 * e),
        "sift": Work(0, 2 * n * f + 8 * e),
        "choose": Work(2 * e * d, rows + batch + 8 * e + 8 * e),
        "redo|emit": nothing,
        # ReLU: features of the candidates, their values in fp32, those that are positive, to where they belong.
        "unpack_features": Work(0, 8 * e + 4 * e),
        "score": Work(2 * e * d, rows + batch + 4 * e + 8 * e),
        "count_kept": Work(0, 8 * e + 8 * n),
        "place": Work(0, 8 * e + 8 * e + 8 * n),
        "count": Work(0, 4 * e + 4 * f),
        "scatter": Work(0, 4 * e + 12 * e),
        "settle": Work(0, 24 * e),
        **sort,
        "csc": Work(0, sum(work.moved for work in sort.values())),  # CUDA's launcher of them, timed from outside
        "decode_loss(_kernel)?": Work(4 * e * d, rows + 2 * batch + 12 * e),
        "windows|hot_piece_kernel|piece_total_kernel": nothing,
        # The encoder's rows: also the copy that the next product reads, the bias gradients and what they send to b_dec.
        "encoder_grad_adam(_kernel)?": Work(e + 2 * e * d + 18 * f * d, reduced + sweep + matrix // 2 + 12 * f),
        "row_grad_adam(_kernel)?": Work(2 * e * d + 16 * f * d, reduced + sweep),  # the decoder's
        # With gradients in memory, because they are clipped or dense: both matrices.
        "row_grad(_kernel)?": Work(4 * e * d, 2 * (reduced + matrix)),
        "row_adam(_kernel)?": Work(32 * f * d, 2 * (sweep + matrix) + matrix // 2),
        "feature_sum(_kernel)?": Work(e, 12 * e + 12 * f),
        "advance_live": Work(100, 60),  # of a step that counts itself
        "flat_adam|adam_entries_kernel": Work(16 * (f + d), 28 * (f + d)),  # the biases
        # By cuBLAS: the encoder's product in bf16, where selection reads what that wrote; and with gradients in memory
        # that of b_dec by way of the encoder, b_enc' · W_enc, in fp32.
        r"nvjet_.*|.*(bf16.*gemm|gemm.*bf16).*": Work(w.product_flops, batch // 2 + matrix // 2),
        r".*(gemv|gemm|splitK).*": Work(2 * f * d, matrix + 4 * f),
    }
    return list(named.items())


def work_of(kernel: str, table: list[tuple[str, Work]]) -> Work | None:
    return next((work for pattern, work in table if re.fullmatch(pattern, kernel)), None)


def short(name: str) -> str:
    """The kernel's own name, without types, namespaces and arguments; for PyTorch's kernels, the operation."""
    functor = re.search(r"(\w*[Ff]unctor\w*)", name)
    plain = (
        re.split(r"[<(]", name.removeprefix("void ").replace("(anonymous namespace)::", "").strip(), maxsplit=1)[0]
        .strip()
        .rsplit("::", 1)[-1]
    )
    return f"{plain or name}<{functor[1]}>" if functor else plain or name


def profiled(call: Callable[[], Any], device: torch.device) -> tuple[Launches, float]:
    """Every kernel that one call runs on the GPU, and the microseconds from the first one's begin to the last one's
    end."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize(device)
    return by_name(profiler.events())


def by_name(events: Any) -> tuple[Launches, float]:
    """Launches on the GPU among a profiler's events."""
    launches: Launches = {}
    times: list[float] = []
    for event in events:
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False):
            launches.setdefault(short(event.name), []).append(event.time_range.end - event.time_range.start)
            times += [event.time_range.start, event.time_range.end]
    return launches, max(times) - min(times) if times else 0.0


class HostEvent:
    """In place of a CUDA event where kernels run on the processor."""

    at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: "HostEvent") -> float:
        return 1e3 * (other.at - self.at)


def from_outside(call: Callable[[], Any], device: torch.device) -> tuple[Launches, float]:
    """The same of our own kernels alone, by events around each launch. A CUDA launcher may start several kernels; it
    has the name of its function."""
    on_gpu = device.type == "cuda"
    event: Callable[[], Any] = HostEvent
    if on_gpu:
        event = partial(torch.cuda.Event, enable_timing=True)
    kept: list[tuple[str, Any, Any]] = []
    begin: Any = event()
    end: Any = event()
    with launches_wrapped(lambda name, launch: _timed(name, launch, event, kept)):
        begin.record()
        call()
        end.record()
    if on_gpu:
        torch.cuda.synchronize(device)
    launches: Launches = {}
    for name, first, last in kept:
        launches.setdefault(name, []).append(1e3 * first.elapsed_time(last))
    return launches, 1e3 * begin.elapsed_time(end)


def _timed(name: str, launch: Callable[[], Any], event: Callable[[], Any], kept: list[tuple[str, Any, Any]]) -> Any:
    begin, end = event(), event()
    begin.record()
    out = launch()
    end.record()
    kept.append((name, begin, end))
    return out


@contextmanager
def launches_wrapped(around: Callable[[str, Callable[[], Any]], Any]) -> Iterator[None]:
    """``around(name of the kernel, launch)`` in place of every launch of ours, by Triton or CUDA, for a while."""
    from monosem.ops import cuda_launch

    replaced: list[tuple[Any, str, Any]] = []

    def replace(where: Any, name: str, by: Any) -> None:
        replaced.append((where, name, getattr(where, name)))
        setattr(where, name, by)

    if triton_launch := sys.modules.get("monosem.ops.triton_launch"):
        plain = triton_launch.run

        def run(kernel: Any, grid: int, *args: Any, **options: Any) -> None:
            if grid:
                around(kernel.__name__, lambda: plain(kernel, grid, *args, **options))

        replace(triton_launch, "run", run)
    if cuda_launch.kernels is not None:
        replace(cuda_launch, "kernels", _Wrapped(cuda_launch.kernels, around))
    try:
        yield
    finally:
        for where, name, before in replaced:
            setattr(where, name, before)


class _Wrapped(SimpleNamespace):
    """The module _cuda with ``around`` at each of its launchers."""

    def __init__(self, module: Any, around: Callable[[str, Callable[[], Any]], Any]) -> None:
        for name in dir(module):
            what = getattr(module, name)
            if not name.startswith("_"):
                launches = callable(what) and not name.endswith("_workspace")
                setattr(self, name, self._launcher(name, what, around) if launches else what)

    @staticmethod
    def _launcher(name: str, function: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: around(name, lambda: function(*args, **options))


def measure(call: Callable[[], Any], device: torch.device, w: Workload, rates: floor.Rates | None) -> dict[str, Any]:
    """The kernels of a step that is warm, the longest first; medians over ``STEPS`` steps."""
    how, by = (profiled, "profiler") if device.type == "cuda" else (from_outside, "launches")
    steps = [how(call, device) for _ in range(STEPS)]
    if by == "profiler" and not steps[-1][0]:
        how, by = from_outside, "launches"
        steps = [how(call, device) for _ in range(STEPS)]
    return {"by": by, **table([launches for launches, _ in steps], [span for _, span in steps], w, rates)}


def table(steps: list[Launches], spans: list[float], w: Workload, rates: floor.Rates | None) -> dict[str, Any]:
    """Figures of each kernel from the launches of some steps."""
    counted, kernels = of_step(w), []
    for name in dict.fromkeys(name for launches in steps for name in launches):
        times = [launches.get(name, []) for launches in steps]
        ms = 1e-3 * statistics.median(map(sum, times))
        row = {
            "kernel": name,
            "launches": statistics.median_low([len(t) for t in times]),
            "ms": ms,
            "launch_us": statistics.median(t for step in times for t in step),
        }
        if work := work_of(name, counted):
            row |= {"flops": work.flops, "bytes": work.moved}
            if rates is not None:
                floor_ms = 1e3 * rates.seconds(work.flops, work.moved)
                row |= {"floor_ms": floor_ms} | ({"to_floor": ms / floor_ms} if floor_ms else {})
        kernels.append(row)
    kernels.sort(key=lambda row: -row["ms"])
    return {"kernels": kernels, "kernels_ms": sum(row["ms"] for row in kernels), "ms": 1e-3 * statistics.median(spans)}
