"""Measuring in a process that may die or hang: what it died of is a line of the report, and a new one does the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gpu_run import NO_TIME, Run, Section, sections

HERE = Path(__file__).resolve().parent
GRACE = 25  # seconds that a unit which has begun may take beyond the end
PATIENCE = 150  # seconds without a message after which a process counts as hanging
DATA = "its data"  # the first unit of a task, which the others need
SPOILED = 3  # exit code: a graph could not be captured, the rest needs a new process


@contextmanager
def process(command: Sequence[str], log: Any, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process that ends, with all that it began, when the block does."""
    begun = subprocess.Popen(
        list(command), stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True
    )
    try:
        yield begun
    finally:
        end(begun)


def end(begun: subprocess.Popen) -> None:
    """Kill it and what it began."""
    with suppress(ProcessLookupError):
        os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()


def threads(limit: int) -> dict[str, str]:
    """Variables that keep a process' threads few: several run at once, and none of them is measured."""
    return {"OMP_NUM_THREADS": str(max(1, min(limit, (os.cpu_count() or 1) // 2)))}


class Worker:
    """A process that does tasks, and the lines that it appends to a file: the task's number with ``{"begin": unit}``,
    ``{"row": {…}}``, ``{"end": unit}`` or ``{"lost": why}`` for each unit, and ``{"finished": true}``."""

    def __init__(self, folder: Path, run: Run, todo: Sequence[dict[str, Any]], kept: dict[str, Section]) -> None:
        self.todo, self.run, self.kept = todo, run, kept
        self.asked, self.answers, self.log = folder / "tasks.json", folder / "results.jsonl", folder / "log"
        self.asked.write_text(json.dumps({"tasks": list(todo), "seconds": run.left}))
        self.read, self.at, self.unit, self.spoke = 0, 0, "", time.monotonic()
        self.ended, self.why = 0, ""

    def work(self, command: Sequence[str], environment: dict[str, str]) -> int:
        """Run it to its end, or to what ends it; keep what it says meanwhile."""
        with self.log.open("w+") as log:
            with process([*command, str(self.asked), str(self.answers)], log, environment) as begun:
                code = None
                while code is None:
                    try:
                        code = begun.wait(timeout=1)
                    except subprocess.TimeoutExpired:
                        self.listen()
                    if code is None and (self.run.left < -GRACE or time.monotonic() - self.spoke > PATIENCE):
                        silent = time.monotonic() - self.spoke > PATIENCE
                        self.why = f"stopped after {PATIENCE} s without a word" if silent else NO_TIME
                        end(begun)
                        code = begun.returncode
            self.listen()
            log.seek(0)
            last = (log.read().strip().splitlines() or [""])[-1][:300]
        self.why = self.why or f"its process ended with {code}: {last}"
        return code

    def listen(self) -> None:
        """Read the complete lines that were appended since, and record them."""
        if not self.answers.exists():
            return
        with self.answers.open("rb") as lines:
            lines.seek(self.read)
            new = [line for line in lines.read().splitlines(keepends=True) if line.endswith(b"\n")]
        self.read += sum(map(len, new))
        told = set()
        for line in new:
            message = json.loads(line)
            task = self.todo[message["task"]]
            section = self.kept[task["section"]]
            self.at = message["task"]
            if "begin" in message:
                if not task.get("begun"):
                    section.forget_errors(task)
                    task["begun"] = True
                self.unit = message["begin"]
            elif "row" in message:
                section.add(message["row"])
                told.add(task["section"])
            elif "lost" in message:
                section.lose(task, self.unit, message["lost"])
                self._past(task)
                told.add(task["section"])
            elif "end" in message:
                section.end(task, self.unit)
                self._past(task)
            elif "finished" in message:
                section.finish(task)
                self.at += 1
                told.add(task["section"])
        if new:
            self.spoke = time.monotonic()
        for name in told:
            self.kept[name].keep()

    def _past(self, task: dict[str, Any]) -> None:
        task["skip"].append(self.unit)
        self.unit, self.ended = "", self.ended + 1


def measure(
    run: Run,
    tasks: Sequence[dict[str, Any]],
    *,
    command: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    again: bool = False,
) -> None:
    """Do the tasks, each of a section, that are not done yet. A unit that ends its process gets an error in its place;
    a new process continues with the next unit."""
    command = command or [sys.executable, str(HERE / "gpu_tasks.py")]
    kept = sections(run, [task["section"] for task in tasks], again)
    todo = [task for t in tasks if (task := kept[t["section"]].begin(t)) is not None]
    while todo:
        if run.left < 10:
            break
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(Path(folder), run, todo, kept)
            code = worker.work(command, threads(4) | (environment or {}))
        todo, task = todo[worker.at :], todo[min(worker.at, len(todo) - 1)]
        if not todo or (code == 0 and not worker.unit):  # all is done, or the time came between two units
            break
        if worker.unit:
            kept[task["section"]].lose(task, worker.unit, worker.why)
            task["skip"].append(worker.unit)
            if worker.unit == DATA:
                todo = todo[1:]
        elif code != SPOILED or not worker.ended:
            kept[task["section"]].lose(task, "its process", worker.why)
            todo = todo[1:]
        kept[task["section"]].keep()
    for task in todo:
        kept[task["section"]].lose(task, "the rest", NO_TIME)
    for section in kept.values():
        section.keep()
