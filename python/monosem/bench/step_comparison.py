"""A full training step of several entrants side by side: times, ratios, memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from monosem.bench import floor, machine
from monosem.bench.rounds import Entrant, Row, groups, interleave, write_data
from monosem.bench.workloads import Workload
from monosem.ops.memory import available_memory


def compare(
    w: Workload,
    entrants: Sequence[Entrant],
    *,
    rounds: int = 10,
    budget: float = 300.0,
    timeout: float = 900.0,
    same_steps: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the entrants on one workload, ours first, and return the measurements as plain data.

    Args:
        rounds: greatest number of rounds; at least three.
        budget: seconds after which no further round begins.
        timeout: seconds after which an entrant that does not answer is stopped.
        same_steps: every entrant learns from the same number of batches, so that their held-out errors compare.
    """
    began = time.time()
    about_machine = machine.describe()
    say("measuring the machine")
    rates = floor.measure(w.d)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.pt"
        write_data(w, data)
        job = w.job() | {"data": str(data), "threads": torch.get_num_threads()}
        parts = groups(entrants, w, available_memory())
        for number, group in enumerate(parts):
            some = [Row(entrant, number) for entrant in group]
            share = budget / len(parts)
            interleave(some, job, rounds=rounds, budget=share, timeout=timeout, same_steps=same_steps, say=say)
            rows += some
    best, product = floor.step(w, rates), rates.product
    state = w.state_bytes(product)
    return {
        "what": "train_step",
        "workload": w.to_json(),
        "machine": about_machine,
        "floor": best,
        "state_bytes": state,
        "seconds": round(time.time() - began, 1),
        "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
        "rows": [summary(row, rows, best["ms"], state) for row in rows],
    }


def summary(row: Row, rows: Sequence[Row], floor_ms: float, state: int) -> dict[str, Any]:
    """A row as plain data. ``ratio`` is the median over the rounds of this entrant's time over ours in that round."""
    about = {
        "name": row.entrant.title,
        "precision": row.entrant.precision,
        "group": row.group,
        "versions": row.ready.get("versions", {}),
        "notes": row.ready.get("notes", []),
        "error": row.error or None,
    }
    times = [t for r in row.seconds for t in r]
    if row.error or not times:
        return about
    ours = next((r for r in rows if r.group == row.group and r.entrant.name == rows[0].entrant.name), row)
    ratios = [theirs / our for theirs, our in zip(row.per_round(), ours.per_round(), strict=False)]
    quarters = statistics.quantiles(times, n=4)
    return about | {
        "ms": 1e3 * statistics.median(times),
        "quartiles_ms": [1e3 * quarters[0], 1e3 * quarters[2]],
        "fastest_ms": 1e3 * min(times),
        "rounds": len(row.seconds),
        "steps": len(times),
        "times_ms": [[round(1e3 * t, 3) for t in r] for r in row.seconds],
        "ratio": statistics.median(ratios) if ratios else None,
        "to_floor": 1e3 * statistics.median(times) / floor_ms,
        "cpu_ms": 1e3 * statistics.median(t for r in row.cpu_seconds for t in r),
        "peak_bytes": row.peak_bytes,
        "over_state": row.peak_bytes / state - 1 if row.peak_bytes else None,
        "own_loss": row.loss,
        **row.evaluation,
    }
