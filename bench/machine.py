"""What a figure was measured on, and how fast that machine is at the two things a step is made of."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import monosem
from monosem import doctor


def describe() -> dict[str, Any]:
    """Processor, versions, commit, and what `monosem doctor` says."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "monosem": monosem.__version__,
        "commit": git.stdout.strip() or None,
        "backend": {f.what: f.state for f in doctor.examine() if f.what.startswith("cpu")},
    }


def seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """Median time of a call after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def product_seconds(n: int, d: int, f: int, dtype: torch.dtype) -> float:
    """Time of x·Wᵀ by PyTorch, tile by tile so that the result stays in cache: the floor of an encoder."""
    x, w = torch.randn(n, d).to(dtype), torch.randn(f, d).to(dtype)
    tile = torch.empty(min(n, 1024), min(f, 1024), dtype=dtype)

    def run() -> None:
        for i in range(0, n, 1024):
            for j in range(0, f, 1024):
                part, rows = x[i : i + 1024], w[j : j + 1024]
                torch.mm(part, rows.T, out=tile[: len(part), : len(rows)])

    return seconds(run)


def bandwidth() -> float:
    """Bytes a second of a copy far larger than the caches, reads and writes counted."""
    a, b = torch.empty(1 << 27).normal_(), torch.empty(1 << 27)
    return 2 * a.numel() * 4 / seconds(lambda: b.copy_(a))
