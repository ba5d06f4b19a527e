"""The error that each library reaches after the same steps from the same weights: a faster wrong step is not faster."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from monosem.bench import machine
from monosem.bench.rounds import Entrant, Failed, Worker, write_data
from monosem.bench.workloads import Workload


def measure(
    w: Workload,
    entrants: Sequence[Entrant],
    *,
    steps: int = 500,
    batches: int = 100,
    parts: int = 5,
    timeout: float = 900.0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train each entrant alone, one after the other, from random weights on the same batches in the same order.

    The figures are of one definition for all: mean squared error on a held-out batch, L0 there, and the objective that
    monosem minimises (``libraries/definition.py``), whatever a library minimises itself.

    Args:
        steps: of training, in all.
        batches: different ones; they come round again.
        parts: points of the curve, evenly spaced.
    """
    began, rows = time.time(), []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.pt"
        write_data(w, data, batches=batches, trained=False)
        job = w.job() | {"data": str(data), "threads": torch.get_num_threads()}
        for number, entrant in enumerate(entrants):
            row: dict[str, Any] = {"name": entrant.title, "precision": entrant.precision, "curve": [], "error": None}
            say(f"{steps} steps of {entrant.title}")
            try:
                with Worker(entrant, job, Path(folder), number) as worker:
                    row |= worker.answer(timeout)
                    row["curve"].append({"step": 0} | worker.ask(timeout, "evaluate"))
                    for part in range(parts):
                        first, last = part * steps // parts, (part + 1) * steps // parts
                        worker.ask(timeout, "steps", first=first, count=last - first)
                        row["curve"].append({"step": last} | worker.ask(timeout, "evaluate"))
                    row |= {name: value for name, value in row["curve"][-1].items() if name != "step"}
            except (Failed, OSError) as error:
                row["error"] = str(error)
            rows.append(row)
    return {
        "what": "losses",
        "workload": w.to_json(),
        "steps": steps,
        "batches": batches,
        "machine": machine.describe(),
        "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "rows": rows,
    }
