"""The tests that stand before speeds: run in processes of their own, and what they say of each backend."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_run import Row, Run
from gpu_worker import end, process, threads

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
PYTEST = (sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider")
ROWS = ("rows", "adam_options", "step_on_device", "torch_contract")  # operations that both backends have
SELECTION = ("encode", "triton_paths", "tensor_cores")  # only in Triton: a step of either backend begins with it


@dataclass(frozen=True)
class Part:
    """A file of tests, or some tests of it (``only``: pytest's ``-k``), by which backend."""

    path: Path
    backend: str
    only: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    pytest: tuple[str, ...] = ()  # another command; () for ``PYTEST``

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name} {self.backend}"

    @property
    def selection(self) -> bool:
        return self.path.stem.removeprefix("test_") in SELECTION


def parts() -> list[Part]:
    """Every test that needs a GPU, once."""

    def ops(name: str, backend: str) -> Part:
        return Part(TESTS / f"ops/test_{name}.py", backend, "cuda", {"MONOSEM_BACKEND": backend})

    return [
        Part(TESTS / "gpu/test_step.py", "triton", "triton"),
        Part(TESTS / "gpu/test_step.py", "cuda", "cuda"),
        Part(TESTS / "gpu/test_cuda.py", "cuda"),
        Part(TESTS / "gpu/test_mesh.py", "triton"),
        *(ops(name, "triton") for name in (*SELECTION, *ROWS, "waits")),
        *(ops(name, "cuda") for name in ROWS),
    ]


def run_tests(run: Run, todo: Sequence[Part], seconds: float, processes: int, again: bool = False) -> None:
    """Run all parts, ``processes`` at a time: compiling kernels takes most of their time, on one core each. A part that
    was green in an earlier call with this folder is not run again; after ``seconds`` what still runs is stopped."""
    stored = {} if again else run.stored("tests") or {}
    outcomes: dict[str, Row] = {p["name"]: p for p in stored.get("parts", []) if outcome(p) == "green"}
    names = [part.name for part in todo]
    waiting, deadline = [part for part in todo if part.name not in outcomes], run.now() + seconds

    def keep() -> None:
        rows = [outcomes[name] for name in names if name in outcomes]
        total = {what: sum(row[what] for row in rows) for what in ("passed", "failed", "skipped")}
        run.keep("tests", total | {"of": len(todo), "parts": rows})

    with tempfile.TemporaryDirectory() as folder:
        running: list[tuple[Part, Any, Any, Any, Path]] = []
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    part = waiting.pop(0)
                    place = Path(folder) / str(len(waiting))
                    report, log = place.with_suffix(".xml"), place.with_suffix(".log").open("w+")
                    select = ["-k", part.only] if part.only else []
                    command = [*(part.pytest or PYTEST), f"--junitxml={report}", *select, str(part.path)]
                    context = process(command, log, threads(2) | part.environment)
                    running.append((part, context, context.__enter__(), log, report))
                for item in list(running):
                    part, context, begun, log, report = item
                    late = run.now() > deadline
                    if begun.poll() is None and not late:
                        continue
                    if begun.poll() is None:
                        end(begun)
                    log.seek(0)
                    tail = log.read()[-6000:]
                    outcomes[part.name] = judged(part, begun.returncode, report, tail, late and begun.returncode < 0)
                    context.__exit__(None, None, None)
                    log.close()
                    running.remove(item)
                    keep()
                time.sleep(0.05)
        finally:
            for _, context, _, log, _ in running:
                context.__exit__(None, None, None)
                log.close()
    keep()


def judged(part: Part, code: int, report: Path, tail: str, stopped: bool) -> Row:
    row: Row = {"name": part.name, "backend": part.backend, "selection": part.selection}
    row |= counts(report) | {"exit_code": code, "tail": tail if code else tail[-300:]}
    return row | ({"stopped": True} if stopped else {})


def counts(report: Path) -> dict[str, Any]:
    """Passed, failed and skipped of a JUnit file, and the names of what failed; all 0 where there is none."""
    none: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "red": []}
    try:
        root = ElementTree.parse(report).getroot()
    except (OSError, ElementTree.ParseError):
        return none
    total, failed, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in root.iter("testsuite"))
        for name in ("tests", "failures", "errors", "skipped")
    )
    red = [case.get("name") for case in root.iter("testcase") if {e.tag for e in case} & {"failure", "error"}]
    return {"passed": total - failed - errors - skipped, "failed": failed + errors, "skipped": skipped, "red": red}


NOTHING_CHOSEN = 5  # pytest's exit code


def outcome(part: Row) -> str:
    """Outcome of a part: green, red, "stopped" (by the clock) or "not run" (all skipped, none there)."""
    if part["failed"]:
        return "red"
    if part.get("stopped"):
        return "stopped"
    if part["exit_code"] not in (0, NOTHING_CHOSEN):
        return "red"
    return "green" if part["passed"] else "not run"


def state(run: Run, section: str, row: Row) -> str | None:
    """Outcome of the tests of the kernels that a row was measured with: the worst of its backend's parts, and of those
    of the selection by Triton, which a step of either backend uses. None for other libraries."""
    if "backend" not in row:
        return None
    tests = run.stored("tests")
    if tests is None:
        return "not run"
    full_step = section != "ops"
    mine = [p for p in tests["parts"] if p["backend"] == row["backend"] or (full_step and p["selection"])]
    words = {outcome(part) for part in mine}
    if len(tests["parts"]) < tests["of"] or not words:
        words.add("not run")
    return next(word for word in ("red", "stopped", "not run", "green") if word in words)


def run_sanitizer(run: Run) -> None:
    """compute-sanitizer's memcheck and racecheck over the smallest tests of the CUDA kernels."""
    reports: dict[str, Any] = {}
    tests = [*PYTEST, "-k", "sanitizer", str(TESTS / "gpu/test_cuda.py")]
    for tool in ("memcheck", "racecheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *tests]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                cwd=ROOT,
                timeout=max(30.0, run.left),
                check=False,
                env={**os.environ, **threads(2), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            )
            out = done.stdout + done.stderr
            clean = done.returncode == 0 and " passed" in out
            reports[tool] = {"clean": clean, "exit_code": done.returncode, "tail": out[-3000:]}
        except FileNotFoundError:
            reports[tool] = {"error": "compute-sanitizer is not on PATH"}
        except subprocess.TimeoutExpired as error:
            reports[tool] = {"error": f"stopped after {error.timeout:.0f} s"}
        run.keep("sanitizer", reports)
