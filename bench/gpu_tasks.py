"""The measurements of ``gpu.py``, one unit at a time: floor, step, kernels of a step, and operations of a shape.

    python gpu_tasks.py TASKS.json RESULTS.jsonl

does the tasks of a list in order and appends a line per event (``gpu_worker.Worker``). A kernel that faults
ends its process: ``gpu.py`` then continues in a new one with the next unit.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gpu_peer
import torch
from gpu_worker import DATA, SPOILED

from monosem.bench import floor, gpu_clock, gpu_kernels, operations
from monosem.bench.workloads import WORKLOADS, Workload
from monosem.nn import registry
from monosem.ops import gpu
from monosem.train.step import FastStep

BACKENDS = ("triton", "cuda")
COPIED = 1 << 31  # bytes of the copy that measures the bandwidth
Task = dict[str, Any]
Unit = tuple[str, Callable[[], dict[str, Any]]]
Tell = Callable[..., None]


def short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else 'no message'}"


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


def perform(task: Task, clock: Any, tell: Tell) -> None:
    """Do the units of one task that are not among those to skip; ``tell`` gets a message at each begin, result and end.

    After a failed capture nothing more is done: the rest needs another process.
    """
    w = WORKLOADS[task["shape"]]
    about = {name: task[name] for name in ("section", "shape", "backend", "options") if task.get(name)}
    skip = set(task.get("skip", ()))
    with environment(MONOSEM_BACKEND=task.get("backend", "native"), MONOSEM_CHECK="0"):  # a check synchronises
        tell(begin=DATA)
        try:
            units = UNITS[task["section"]](clock, w, task)
        except Exception as error:
            tell(lost=short(error))
            return
        tell(end=DATA)
        for name, call in units:
            if name in skip:
                continue
            tell(begin=name)
            try:
                figures, lost = call(), None
            except Exception as error:
                figures, lost = {}, short(error)
            if lost is None:
                tell(row=about | ({"name": name} if task["section"] == "ops" else {}) | figures)
                tell(end=name)
            else:
                tell(lost=lost)
            release(clock)
            if clock.broken:
                return
        units.clear()  # and what they hold
    release(clock)
    tell(finished=True)


def rates(task: Task) -> floor.Rates | None:
    """Rates that the floor section measured; None where it could not."""
    return floor.Rates(**task["rates"]) if task.get("rates") else None


def floor_units(clock: Any, w: Workload, task: Task) -> list[Unit]:
    """Copy bandwidth and the encoder's product on this card, and from them the least time of a step."""

    def row() -> dict[str, Any]:
        rate = gpu_clock.product_flops_per_second(clock, w.n, w.d, min(w.f, 16_384), torch.bfloat16)
        copied = gpu_clock.copy_bytes_per_second(clock, task.get("copied", COPIED))
        return floor.step(w, floor.Rates(rate, copied, "bf16"))

    return [("floor", row)]


def operation_units(clock: Any, w: Workload, task: Task) -> list[Unit]:
    """Time of each operation that this backend has, its floor, and how near it comes."""
    speed = rates(task)

    def row(op: operations.Operation) -> dict[str, Any]:
        with torch.no_grad():
            timing = clock.time(op.call, graph=not op.waits)
        floor_ms = speed and 1e3 * speed.seconds(op.flops, op.moved)
        return (
            timing.to_json()
            | ({"floor_ms": floor_ms, "to_floor": timing.ms / floor_ms} if floor_ms else {})
            | {
                "bytes_per_second": op.moved / (1e-3 * timing.ms),
                "flops_per_second": op.flops / (1e-3 * timing.ms),
            }
        )

    with torch.no_grad():
        todo = operations.operations(w, str(clock.device), encoded=False)
    return [(op.name, lambda op=op: row(op)) for op in todo if task["backend"] in gpu.IMPLEMENTATIONS[op.name]]


PRODUCT = os.environ.get("MONOSEM_PRODUCT", "auto")  # of steps whose options do not set it


class Step:
    """A training step of a workload, as ``FastStep`` takes it, with its statistics before the first.

    ``options``: of ``FastStep``; ``dead``, the share of features that AuxK is to revive; and ``product``, as
    ``MONOSEM_PRODUCT`` has it.
    """

    def __init__(self, clock: Any, w: Workload, options: dict[str, Any]) -> None:
        options = dict(options)
        dead, device = options.pop("dead", 0.0), clock.device
        os.environ["MONOSEM_PRODUCT"] = options.pop("product", PRODUCT)
        self.empty = clock.allocated()
        self.batches, start = gpu_peer.start(w.job(), device)
        sae = registry.build(w.architecture, device=device)
        sae.capacity.expect(most=8 * w.k, mean=float(w.k))
        names = {"W_enc_rows": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec"}
        with torch.no_grad():
            for mine, name in names.items():
                getattr(sae, mine).copy_(start.pop(name))
        self.step, self.w = FastStep(sae, **options), w
        self.dead = torch.arange(w.f, device=device) % round(1 / dead) == 0 if dead else None
        self.live = torch.tensor(w.lr, dtype=torch.float64, device=device)  # so that each replay is a further step

    def __call__(self, lr: float | torch.Tensor | None = None, batch: int = 0) -> Any:
        return self.step(self.batches[batch], self.w.lr if lr is None else lr, dead=self.dead)

    def warm(self) -> list[float]:
        """Compile, allocate, and learn what is known two steps late: the losses of three steps."""
        return [float(self(self.live, i).loss) for i in range(3)]


def step_units(clock: Any, w: Workload, task: Task) -> list[Unit]:
    """One step: as called, with its parts, and as a graph, against the floor; peak memory above weights and Adam.
    The floor stays that of Adam in fp32 and without AuxK."""
    options = task.get("options") or {}
    step, speed = Step(clock, w, options), rates(task)
    floor_ms = speed and floor.step(w, speed)["ms"]
    losses = step.warm()

    def against_the_floor(ms: float) -> dict[str, Any]:
        figures = {"ms": ms, "tokens_per_second": w.n / (1e-3 * ms)}
        return figures | ({"floor_ms": floor_ms, "to_floor": ms / floor_ms} if floor_ms else {})

    known: dict[str, float] = {}

    def as_called() -> dict[str, Any]:
        release(clock)
        peak = clock.peak_bytes(lambda: step(step.live, 3), step.empty + step.batches.numel() * 4)
        state = w.state_bytes("bf16", options.get("adam_state", "fp32"))
        eager = clock.time(step, graph=False)
        known["ms"] = eager.ms
        return {
            "eager": eager.to_json(),
            **against_the_floor(eager.ms),
            "losses": losses,
            "peak_bytes": peak,
            "state_bytes": state,
            "over_state": None if peak is None else peak / state - 1,
        }

    def as_a_graph() -> dict[str, Any]:
        graph = clock.time(lambda: step(step.live))
        return {"graph": graph.to_json(), **against_the_floor(min(graph.ms, known.get("ms", graph.ms)))}

    return [
        ("as called", as_called),
        ("where it goes", lambda: {"parts_ms": clock.breakdown(step)}),
        ("as a graph", as_a_graph),
    ]


def kernel_units(clock: Any, w: Workload, task: Task) -> list[Unit]:
    """Every kernel of a step as it is called: how often, how long, and against what it cannot avoid."""
    step = Step(clock, w, task.get("options") or {})
    step.warm()
    return [("kernels", lambda: gpu_kernels.measure(step, clock.device, w, rates(task)))]


UNITS = {"floor": floor_units, "step": step_units, "kernels": kernel_units, "ops": operation_units}


def main() -> int:
    asked, results = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    deadline = time.monotonic() + asked["seconds"]
    if rehearsal := asked["tasks"][0].get("rehearsal"):
        import gpu_rehearse

        clock: Any = gpu_rehearse.stand_in(**rehearsal)
    else:
        clock = gpu_clock.Clock(torch.device("cuda"))
    with results.open("a") as out:

        def tell_of(number: int, **what: Any) -> None:
            out.write(json.dumps({"task": number} | what) + "\n")
            out.flush()

        for number, task in enumerate(asked["tasks"]):
            if time.monotonic() > deadline:
                return 0
            perform(task, clock, partial(tell_of, number))
            if clock.broken:  # a capture failed: the rest in a new process
                print(clock.broken, file=sys.stderr)
                return SPOILED
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # raises after a fault: the process ends
    return 0


if __name__ == "__main__":
    sys.exit(main())
