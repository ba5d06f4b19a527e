"""Entrants in processes of their own, interleaved: one runs while the others block.

Libraries whose requirements contradict each other cannot share an interpreter, and a fair comparison needs them in
the same minutes: the parent starts a ``worker.py`` for each under its own Python and interleaves their steps.
"""

from __future__ import annotations

import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from monosem.bench.workloads import Workload

WORKER = Path(__file__).parent / "worker.py"
ENTRANTS = Path(__file__).parent / "entrants"
PAUSE = 0.05  # seconds between two entrants: the threads of the one before spin for a moment before they sleep
SHORT = 1.0  # a step shorter than this takes one untimed step per round, to bring its weights back into the caches


@dataclass(frozen=True)
class Entrant:
    """One row of a table: whose step, in which precision and variant, under which interpreter.

    Attributes:
        name: the library.
        precision: ``"default"`` or ``"bf16"`` (autocast).
        variant: passed to the entrant's file.
        python: interpreter of its environment.
        env: more environment variables.
        missing: the reason, when it is known before that it cannot start.
    """

    name: str
    script: Path
    precision: str = "default"
    variant: str = ""
    python: Path = Path(sys.executable)
    env: dict[str, str] = field(default_factory=dict, hash=False)
    missing: str = ""

    @property
    def title(self) -> str:
        return self.name + (f" {self.variant}" if self.variant else "") + (" bf16" if self.precision == "bf16" else "")


MONOSEM = Entrant("monosem", ENTRANTS / "engine.py")
DENSE = Entrant("PyTorch", ENTRANTS / "dense.py", variant="eager")
COMPILED = Entrant("PyTorch", ENTRANTS / "dense.py", variant="compiled")


class Failed(RuntimeError):
    """An entrant failed; the message goes into the table."""


class Worker:
    """The process of one entrant. Use as a context manager."""

    def __init__(self, entrant: Entrant, job: dict[str, Any], folder: Path, number: int = 0) -> None:
        if entrant.missing:
            raise Failed(entrant.missing)
        self.entrant, self.log = entrant, folder / f"worker-{number}.log"
        path = folder / f"job-{number}.json"
        path.write_text(json.dumps(job | {"precision": entrant.precision, "variant": entrant.variant}))
        threads = {name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(entrant.python), str(WORKER), str(entrant.script), str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | threads | entrant.env,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._requests, self._replies = self.process.stdin, self.process.stdout
        self._rest = b""

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def answer(self, timeout: float) -> dict[str, Any]:
        """The next line of the worker. Raises ``Failed`` when it reports an error, ends, or does not reply in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._replies], [], [], left)[0]:
                self.close()
                raise Failed(f"no answer within {timeout:.0f} s; it was stopped")
            part = os.read(self._replies.fileno(), 1 << 16)
            if not part:
                raise Failed(self._how_it_ended())
            self._rest += part
        line, self._rest = self._rest.split(b"\n", 1)
        message = json.loads(line)
        if "error" in message:
            raise Failed(message["error"])
        return message

    def ask(self, timeout: float, do: str, **what: Any) -> dict[str, Any]:
        """Send the worker a request and return its reply."""
        try:
            self._requests.write(json.dumps({"do": do, **what}).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            raise Failed(self._how_it_ended()) from None
        return self.answer(timeout)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self._requests, self._replies):
            with suppress(BrokenPipeError):
                pipe.close()

    def _how_it_ended(self) -> str:
        code = self.process.wait()
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        how = f"killed by signal {-code}, perhaps out of memory" if code < 0 else f"ended with status {code}"
        return f"its process was {how}" + (f": {last[0][:200]}" if last else "")


@dataclass
class Row:
    """Measurements of one entrant."""

    entrant: Entrant
    group: int = 0
    seconds: list[list[float]] = field(default_factory=list)  # of each round
    cpu_seconds: list[list[float]] = field(default_factory=list)  # of all threads; tells more on a busy machine
    loss: float | None = None  # of the last step, as the entrant itself defines it
    peak_bytes: int | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def per_round(self) -> list[float]:
        return [statistics.fmean(r) for r in self.seconds]


def write_data(w: Workload, path: Path, batches: int = 4, trained: bool = True) -> None:
    """Weights and batches for all entrants. ``trained``: the dictionary starts as the directions of the data."""
    directions = w.directions()
    data_batches = w.batches(batches + 1, directions)
    start = directions if trained else w.directions(seed=2)
    data = {
        "batches": data_batches[:-1].clone(),
        "held_out": data_batches[-1].clone(),
        "W_enc": start,
        "W_dec": start,
        "b_enc": torch.full((w.f,), w.bias(start, data_batches[:-1]), dtype=torch.float32, device="cpu"),
        "b_dec": torch.zeros(w.d, dtype=torch.float32, device="cpu"),
    }
    torch.save(data, path)


def groups(entrants: Sequence[Entrant], w: Workload, available: int) -> list[list[Entrant]]:
    """Entrants that fit in memory together, the first (ours) in every group.

    Each keeps weights, two moments and gradients of both matrices; the one that runs may need several arrays of
    tokens × features besides.
    """
    resident, working = 16 * 2 * w.f * w.d + (1 << 29), 6 * 4 * w.n * w.f
    size = max(2, (available - working) // resident)
    first, others = entrants[0], list(entrants[1:])
    return [[first, *others[i : i + size - 1]] for i in range(0, len(others), size - 1)] or [[first]]


def interleave(
    rows: Sequence[Row],
    job: dict[str, Any],
    *,
    rounds: int,
    budget: float,
    timeout: float,
    timed: int = 2,
    same_steps: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Interleave the steps of the entrants of ``rows``, and fill in their measurements.

    Each first takes three untimed steps; then come ``rounds`` rounds of ``timed`` timed steps each, the order rotated
    by one per round, fewer when ``budget`` seconds have passed (never fewer than three). At the end each
    evaluates the held-out batch. An entrant that fails gets an ``error`` and the others go on. ``same_steps``: also those
    with long steps take an untimed one per round, so that all have learnt from the same batches.
    """
    with tempfile.TemporaryDirectory() as folder:
        workers: dict[int, Worker] = {}

        def attempt(number: int, what: Callable[..., None], *args: Any) -> None:
            try:
                what(rows[number], workers[number], timeout, *args)
            except Failed as error:
                rows[number].error = str(error)
                workers.pop(number).close()

        try:
            for number, row in enumerate(rows):
                say(f"starting {row.entrant.title}")
                try:
                    workers[number] = Worker(row.entrant, job, Path(folder), number)
                except (Failed, OSError) as error:
                    row.error = str(error)
                    continue
                attempt(number, _ready)
                if number in workers:
                    say(f"warming up {row.entrant.title}")
                    attempt(number, _steps, 0, 1, 2, False)
            begin, done = time.monotonic(), 0
            while workers and done < rounds and (done < 3 or time.monotonic() - begin < budget):
                order = sorted(workers)
                for number in order[done % len(order) :] + order[: done % len(order)]:
                    row = rows[number]
                    say(f"round {done + 1}/{rounds}: {row.entrant.title}")
                    time.sleep(PAUSE)
                    untimed = int(same_steps or not row.seconds or row.seconds[-1][-1] < SHORT)
                    attempt(number, _steps, done * timed, timed, untimed)
                done += 1
            for number in list(workers):
                attempt(number, _evaluate)
        finally:
            for worker in workers.values():
                worker.close()


def _ready(row: Row, worker: Worker, timeout: float) -> None:
    row.ready.update(worker.answer(timeout))


def _evaluate(row: Row, worker: Worker, timeout: float) -> None:
    row.evaluation.update(worker.ask(timeout, "evaluate"))
    if not all(math.isfinite(value) for value in row.evaluation.values()):
        raise Failed("its reconstruction is not a number")


def _steps(row: Row, worker: Worker, timeout: float, first: int, count: int, untimed: int, keep: bool = True) -> None:
    reply = worker.ask(timeout, "steps", first=first, count=count, untimed=untimed)
    row.peak_bytes = reply["peak_bytes"]
    if keep:
        row.seconds.append(reply["seconds"])
        row.cpu_seconds.append(reply["cpu_seconds"])
        row.loss = reply["loss"]
