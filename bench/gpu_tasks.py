"""The speeds that ``gpu.py`` measures, one task at a time: the floor of a shape, its operations, its step.

    python gpu_tasks.py TASKS.json RESULTS.jsonl

does the tasks of a list in turn and appends a line for each. A kernel that faults takes its process with it: ``gpu.py``
then goes on in a new one with the task after.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gpu_peer
import torch

import monosem as ms
from monosem.bench import floor, gpu_clock, operations
from monosem.bench.workloads import WORKLOADS, Workload
from monosem.ops import gpu
from monosem.train.step import FastStep

BACKENDS = ("triton", "cuda")
Task = dict[str, Any]


def attempt(clock: Any, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the call returns, or its error; memory that a failed call held is given back."""
    try:
        return call()
    except Exception as error:
        text = str(error).strip().splitlines()
        result = {"error": f"{type(error).__name__}: {text[0][:300] if text else 'no message'}"}
    release(clock)
    return result


def release(clock: Any) -> None:
    """Give memory that nothing holds back to the card; after a failed capture that could end the process."""
    gc.collect()
    if torch.cuda.is_available() and not clock.broken:
        torch.cuda.empty_cache()


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def perform(task: Task, clock: Any, keep: Callable[[dict[str, Any]], None]) -> None:
    """Do one task; ``keep`` gets each row of it as it is known."""
    w = WORKLOADS[task["shape"]]
    about = {"section": task["section"], "shape": w.name}
    if task["section"] == "floor":
        keep(about | attempt(clock, lambda: floor_row(clock, w)))
        return
    speed = floor.Rates(**task["rates"])
    with environment(MONOSEM_BACKEND=task["backend"], MONOSEM_CHECK="0"):  # a check waits for the GPU
        about["backend"] = task["backend"]
        if task["section"] == "step":
            options = task.get("options", {})
            about |= {"options": options} if options else {}
            keep(about | attempt(clock, lambda: step_row(clock, w, speed, options)))
            release(clock)
            return

        def every() -> dict[str, Any]:
            with torch.no_grad():
                for op in operations.operations(w, str(clock.device)):
                    if task["backend"] in gpu.IMPLEMENTATIONS[op.name] and not clock.broken:
                        keep(about | {"name": op.name} | attempt(clock, lambda op=op: operation_row(clock, op, speed)))
            return {}

        if failed := attempt(clock, every):
            keep(about | {"name": "its data"} | failed)
        release(clock)


def floor_row(clock: Any, w: Workload) -> dict[str, Any]:
    """Copy bandwidth and the encoder's product on this card, and from them the least time of a step."""
    rate = gpu_clock.product_flops_per_second(clock, w.n, w.d, min(w.f, 16_384), torch.bfloat16)
    return floor.step(w, floor.Rates(rate, gpu_clock.copy_bytes_per_second(clock), "bf16"))


def operation_row(clock: Any, op: operations.Operation, speed: floor.Rates) -> dict[str, Any]:
    """Time of an operation, its floor, and how near it comes."""
    timing = clock.time(op.call, graph=not op.waits)
    least = 1e3 * speed.seconds(op.flops, op.moved)
    return timing.to_json() | {
        "floor_ms": least, "to_floor": timing.ms / least,
        "bytes_per_second": op.moved / (1e-3 * timing.ms), "flops_per_second": op.flops / (1e-3 * timing.ms),
    }  # fmt: skip


def step_row(clock: Any, w: Workload, speed: floor.Rates, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """One step: time as a graph and as called, against the floor; where it goes; peak memory above that of weights and
    Adam. ``options``: of ``FastStep``; the floor stays that of Adam in fp32."""
    options = options or {}
    empty = clock.allocated()
    batches, start = gpu_peer.start(w.to_json(), clock.device)
    if w.kind == "topk":
        sae: ms.SAE = ms.TopKSAE(w.d, w.f, w.k, device=clock.device)
    else:
        sae = ms.ReLUSAE(w.d, w.f, w.l1, device=clock.device)
        sae.expect(most=8 * w.k, mean=float(w.k))
    names = {"W_enc_rows": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec"}
    with torch.no_grad():
        for mine, name in names.items():
            getattr(sae, mine).copy_(start.pop(name))
    step = FastStep(sae, **options)
    lr = torch.tensor(w.lr, dtype=torch.float64, device=clock.device)  # so that each replay is a further step
    losses = [float(step(batches[i], lr).loss) for i in range(3)]
    release(clock)
    peak = clock.peak_bytes(lambda: step(batches[3], lr), empty + batches.numel() * 4)
    state, best = w.state_bytes("bf16", options.get("adam_state", "fp32")), floor.step(w, speed)
    eager = clock.time(lambda: step(batches[0], w.lr), graph=False)
    parts = clock.breakdown(lambda: step(batches[0], w.lr))
    try:
        graph, error = clock.time(lambda: step(batches[0], lr)), {}
    except gpu_clock.CaptureFailed as failed:  # what is known by then is told
        graph, error = None, {"error": str(failed)}
    least = min(graph.ms, eager.ms) if graph else eager.ms
    return {
        **error, "graph": graph.to_json() if graph else None, "eager": eager.to_json(), "floor_ms": best["ms"],
        "to_floor": least / best["ms"],
        "tokens_per_second": w.n / (1e-3 * least), "losses": losses, "parts_ms": parts, "peak_bytes": peak,
        "state_bytes": state, "over_state": peak / state - 1,
    }  # fmt: skip


def main() -> int:
    tasks, results = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    deadline = time.monotonic() + tasks["seconds"]
    clock = gpu_clock.Clock(torch.device("cuda"))
    with results.open("a") as out:

        def keep(row: dict[str, Any]) -> None:
            out.write(json.dumps(row) + "\n")
            out.flush()

        for number, task in enumerate(tasks["tasks"]):
            if time.monotonic() > deadline:
                return 0
            perform(task, clock, keep)
            if clock.broken:  # a capture failed: the rest in a new process
                print(clock.broken, file=sys.stderr)
                return 3
            torch.cuda.synchronize()  # after a fault this raises: the process is of no further use
            keep({"done": number})
    return 0


if __name__ == "__main__":
    sys.exit(main())
