"""Time and peak memory of a step as one of N, F, K grows, the others fixed; plain PyTorch beside it while it fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from monosem.bench import machine, step_comparison
from monosem.bench.rounds import DENSE, MONOSEM
from monosem.bench.workloads import Workload

# Elements of an array of tokens × features above which plain PyTorch is not measured.
DENSE_ELEMENTS = 2048 * 65_536


def measure(
    base: Workload,
    axis: str,
    values: Sequence[int],
    *,
    rounds: int = 5,
    budget: float = 60.0,
    timeout: float = 900.0,
    dense_elements: int = DENSE_ELEMENTS,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """One comparison for each value of ``axis`` (``"n"``, ``"f"`` or ``"k"``), each in new processes."""
    began, points = time.time(), []
    for value in values:
        w = base.with_(name="", **{axis: value})
        entrants = [MONOSEM, *([DENSE] if w.n * w.f <= dense_elements else [])]

        def tell(text: str, value: int = value) -> None:
            say(f"{axis.upper()}={value:,}: {text}")

        comparison = step_comparison.compare(w, entrants, rounds=rounds, budget=budget, timeout=timeout, say=tell)
        points.append({"value": value} | {name: comparison[name] for name in ("floor", "state_bytes", "rows")})
    return {
        "what": "growth",
        "axis": axis,
        "workload": base.to_json(),
        "machine": machine.describe(),
        "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "points": points,
    }
