"""Times on a GPU: CUDA events around the replay of a graph, the cache emptied before each, medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from monosem.ops import gpu


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call. ``how``: "graph" (one replay, no gaps between launches) or "eager"; why, if eager."""

    ms: float
    low_ms: float  # quartiles
    high_ms: float
    repeats: int
    how: str
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v != ""}


class CaptureFailed(RuntimeError):
    """A call was not captured as a graph, and its process is to end.

    After it, PyTorch is left on the capture's stream with the capture's memory under way: what runs then runs elsewhere
    than meant, and giving memory back can abort the process.
    """


class Clock:
    """Median of some calls. ``spend_ms``: about how long to measure each, after a warm-up of a third of it.

    ``broken``: why a capture failed, empty while none has; from then on nothing is measured.
    """

    broken = ""

    def __init__(self, device: torch.device, spend_ms: float = 150.0) -> None:
        self.device, self.spend_ms = device, spend_ms
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or 64 << 20
        self.flush = torch.empty(4 * cache, dtype=torch.uint8, device=device)

    def time(self, call: Callable[[], Any], graph: bool = True) -> Timing:
        """Time a call. ``graph=False`` for one that cannot be captured, because it waits for the GPU.

        Raises:
            CaptureFailed: it could not be captured all the same, or another could not be before.
        """
        with self._usable():
            call()
            torch.cuda.synchronize(self.device)
            replay = self.capture(call).replay if graph else call
            once = self._measure(replay, 3)
            repeats = max(5, min(200, int(self.spend_ms / max(1e-3, statistics.median(once)))))
            self._measure(replay, max(1, repeats // 3))
            times = self._measure(replay, repeats)
        low, middle, high = statistics.quantiles(times, n=4)
        how, why = ("graph", "") if graph else ("eager", "asked for")
        return Timing(middle, low, high, repeats, how, why)

    def capture(self, call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
        """The call as a graph, after three runs on the side stream that PyTorch's documentation asks for."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except Exception as error:
            self.broken = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
            raise CaptureFailed(
                f"not captured as a graph ({self.broken}); its process measures nothing more"
            ) from error
        return graph

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Events, streams and graphs of this device, in a process that no capture has failed in."""
        if self.broken:
            raise CaptureFailed(f"an earlier call was not captured as a graph ({self.broken}); go on in a new process")
        with torch.cuda.device(self.device):
            yield

    def breakdown(self, call: Callable[[], Any], repeats: int = 5) -> dict[str, float]:
        """Milliseconds of each operation of a call, most first, and of the time between them.

        The GPU is kept busy while the host is still launching, so that no gap is counted. Medians.
        """
        runs: list[tuple[Any, Any, list[tuple[str, Any, Any]]]] = []
        for _ in range(repeats):
            events: list[tuple[str, Any, Any]] = []
            with self._usable(), operations_timed(events, self._event):
                torch.cuda.synchronize(self.device)
                torch.cuda._sleep(100_000_000)  # cycles: some 50 ms
                begin, end = self._event(), self._event()
                begin.record()
                call()
                end.record()
                torch.cuda.synchronize(self.device)
            runs.append((begin, end, events))
        return parts(runs)

    @staticmethod
    def _event() -> Any:
        return torch.cuda.Event(enable_timing=True)

    def peak_bytes(self, call: Callable[[], Any], before: int) -> int:
        """Most memory allocated during a call, above ``before``."""
        with self._usable():
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            call()
            torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def _measure(self, call: Callable[[], Any], repeats: int) -> list[float]:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for begin, end in events:
            self.flush.zero_()
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize(self.device)
        return [begin.elapsed_time(end) for begin, end in events]


def parts(runs: list[tuple[Any, Any, list[tuple[str, Any, Any]]]]) -> dict[str, float]:
    """Milliseconds of each operation and between them, from the events at both ends of calls and around each
    operation in them."""
    breakdowns = []
    for begin, end, events in runs:
        run = {"in all": begin.elapsed_time(end)}
        for name, first, last in events:
            run[name] = run.get(name, 0.0) + first.elapsed_time(last)
        run["between"] = 2 * run["in all"] - sum(run.values())
        breakdowns.append(run)
    medians = {name: statistics.median(run.get(name, 0.0) for run in breakdowns) for name in breakdowns[-1]}
    return dict(sorted(medians.items(), key=lambda part: -part[1]))


@contextmanager
def operations_timed(events: list[tuple[str, Any, Any]], event: Callable[[], Any]) -> Iterator[None]:
    """Events around every operation for GPUs, as they are called."""
    plain = gpu.call

    def timed(op: str, *args: Any) -> Any:
        begin, end = event(), event()
        begin.record()
        out = plain(op, *args)
        end.record()
        events.append((op, begin, end))
        return out

    gpu.call = timed
    try:
        yield
    finally:
        gpu.call = plain


def copy_bytes_per_second(clock: Clock, size: int = 1 << 31) -> float:
    """Bytes per second of a copy far larger than the cache, reads and writes counted."""
    a = torch.empty(size // 4, device=clock.device, dtype=torch.float32).normal_()
    b = torch.empty_like(a)
    return 2 * size / (1e-3 * clock.time(lambda: b.copy_(a)).ms)


def product_flops_per_second(clock: Clock, n: int, d: int, f: int, dtype: torch.dtype) -> float:
    """FLOP/s of PyTorch's x·Wᵀ [n, d] × [d, f] on random data; the best of one product and four narrower ones."""
    x = torch.randn(n, d, device=clock.device, dtype=torch.float32).to(dtype)
    w = torch.randn(f, d, device=clock.device, dtype=torch.float32).to(dtype)
    best = float("inf")
    for parts in (1, 4):
        out = torch.empty(n, f // parts, device=clock.device, dtype=dtype)

        def run(parts: int = parts, out: torch.Tensor = out) -> None:
            for rows in w[: f // parts * parts].chunk(parts):
                torch.mm(x, rows.T, out=out)

        best = min(best, clock.time(run).ms / (f // parts * parts))
    return 2 * n * d / (1e-3 * best)
