"""How ``gpu.py`` gets its figures: in processes that may fail, within the time there is, on disk as they come."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_tasks import Task

from monosem.bench.workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
CONTESTANTS = HERE.parent / "python/monosem/bench/contestants"
PEERS = {  # title: file of the contestant, what must be importable, variants
    "monosem": (CONTESTANTS / "engine.py", "monosem", ("",)),
    "PyTorch": (CONTESTANTS / "dense.py", "torch", ("eager", "compiled")),
    "sparsify": (HERE / "contestants/sparsify_step.py", "sparsify", ("",)),
    "SAELens": (HERE / "contestants/sae_lens_step.py", "sae_lens", ("dense", "sparse")),
    "dictionary_learning": (HERE / "contestants/dictionary_learning_step.py", "dictionary_learning", ("",)),
}
NO_TIME = "no time was left"
GRACE = 25  # seconds that a task which has begun may take beyond the end


class Run:
    """The folder, the time that is left, and what was measured so far."""

    def __init__(self, folder: Path, minutes: float, about: dict[str, Any], now=time.monotonic) -> None:
        self.folder, self.about, self.now, self.end = folder, about, now, now() + 60 * minutes
        self.results: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - self.now()

    def keep(self, section: str, result: dict[str, Any]) -> None:
        """Write a section's state: whole or not at all."""
        self.results[section] = {"about": self.about} | result
        path = self.folder / f"{section}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.results[section], indent=1) + "\n")
        part.replace(path)

    def stored(self, section: str) -> dict[str, Any] | None:
        """The section, of this call or of an earlier one with this folder on the same GPU and commit."""
        path = self.folder / f"{section}.json"
        if section not in self.results and path.exists():
            found = json.loads(path.read_text())
            if all(found["about"].get(key) == self.about.get(key) for key in ("commit", "gpu")):
                self.results[section] = found
        return self.results.get(section)

    def rows(self, section: str, shape: str) -> list[dict[str, Any]]:
        return [row for row in self.results.get(section, {}).get("rows", []) if row["shape"] == shape]


def measure(run: Run, section: str, tasks: Sequence[Task], command: Sequence[str] | None = None) -> None:
    """Do the tasks in a process; when it dies, the task that it died of gets an error and a new one does the rest."""
    command = command or [sys.executable, str(HERE / "gpu_tasks.py")]
    rows: list[dict[str, Any]] = []
    todo = list(tasks)

    def give_up(task: Task, why: str) -> None:
        rows.append({**{k: v for k, v in task.items() if k != "rates"}, "error": why})

    while todo:
        if run.left < 10:
            for task in todo:
                give_up(task, NO_TIME)
            break
        with tempfile.TemporaryDirectory() as folder:
            asked, answers = Path(folder) / "tasks.json", Path(folder) / "results.jsonl"
            asked.write_text(json.dumps({"tasks": todo, "seconds": run.left}))
            with (Path(folder) / "log").open("w+") as log:
                process = subprocess.Popen([*command, str(asked), str(answers)], stdout=log, stderr=log)
                code = None
                while code is None:  # what is known is on disk soon, should this process be stopped
                    try:
                        code = process.wait(timeout=5)
                    except subprocess.TimeoutExpired:
                        run.keep(section, {"rows": rows + [row for row in answered(answers) if "done" not in row]})
                    if code is None and run.left < -GRACE:  # a task that has begun may end
                        process.kill()
                        code = process.wait()
                log.seek(0)
                last = (log.read().strip().splitlines() or [""])[-1][:300]
            found = answered(answers)
        rows += [row for row in found if "done" not in row]
        done = sum("done" in row for row in found)
        if code and done < len(todo):
            give_up(todo[done], f"its process ended with {code}: {last}")
            done += 1
        elif done < len(todo):  # the deadline came
            for task in todo[done:]:
                give_up(task, NO_TIME)
            done = len(todo)
        todo = todo[done:]
        run.keep(section, {"rows": rows})
    run.keep(section, {"rows": rows})


def answered(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines that is being written."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def rates(run: Run, shape: str) -> dict[str, Any] | None:
    """What the floor section measured for this shape."""
    for row in run.rows("floor", shape):
        if "error" not in row:
            return {name: row[name] for name in ("flops_per_second", "bytes_per_second", "product")}
    return None


def peers(run: Run, shapes: Sequence[str], pythons: dict[str, str], device: str = "cuda") -> None:
    """Steps of the other libraries and of ours through their own interfaces, in the default precision and in bf16."""
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for shape in shapes:
        for title, (script, module, variants) in PEERS.items():
            python = pythons.get(title, sys.executable)
            if title not in missing:
                missing[title] = importable(python, module)
            for variant in variants:
                for precision in ("default", "bf16") if title != "monosem" else ("default",):
                    row = {"shape": shape, "name": title, "variant": variant, "precision": precision}
                    if missing[title]:
                        row["error"] = missing[title]
                    elif run.left < 20:
                        row["error"] = NO_TIME
                    else:
                        job = WORKLOADS[shape].to_json() | {
                            "script": str(script), "variant": variant, "precision": precision, "device": device,
                            "steps": 20, "seconds": 5.0,
                        }  # fmt: skip
                        row |= in_a_process(python, job, run.left)
                    rows.append(row)
                    run.keep("peers", {"rows": rows})


def importable(python: str, module: str) -> str:
    """Why the module cannot be imported there; empty when it can."""
    done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]


def in_a_process(python: str, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """``gpu_peer.py`` on this job."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "job.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(job))
        command = [python, str(HERE / "gpu_peer.py"), str(asked), str(answer)]
        try:
            limit = max(20.0, min(180.0, seconds))
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired as error:
            return {"error": f"stopped after {error.timeout:.0f} s"}
        if not answer.exists():
            return {"error": f"its process ended with {done.returncode}: {done.stderr.strip()[-200:]}"}
        return json.loads(answer.read_text())


def table(run: Run, shapes: Sequence[str]) -> str:
    """A short table: for each shape the floor, our step, the others' steps, our operations."""
    results, lines = run.results, []
    if tests := results.get("tests"):
        lines.append(f"GPU tests: {tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped")
    for shape in shapes:
        lines.append(f"\n{WORKLOADS[shape]}")
        lines += [_said(row, _floor) for row in run.rows("floor", shape)]
        steps = run.rows("step", shape)
        for row in steps:
            lines.append(f"  step, {row['backend']:7} {_options(row)}{_said(row, _step)}")
            if "error" not in row and row["parts_ms"]:
                lines.append(f"    of which {_parts(row['parts_ms'])}")
        whole = [r for r in steps if "error" not in r and not r.get("options")]
        best = min((min(r["graph"]["ms"], r["eager"]["ms"]) for r in whole), default=None)
        for row in run.rows("peers", shape):
            title = " ".join(p for p in (row["name"], row["variant"], row["precision"]) if p not in ("", "default"))
            ours = lambda r: f"{r['ms']:9.3f} ms" + (f" {r['ms'] / best:7.2f} × our step" if best else "")  # noqa: B023
            lines.append(f"  {title:26} {_said(row, ours)}")
        for row in run.rows("ops", shape):
            lines.append(f"  {row.get('name', ''):15} {row['backend']:7} {_said(row, _operation)}")
    for tool in ("memcheck", "racecheck"):
        if said := results.get("sanitizer", {}).get(tool):
            lines.append(f"{tool}: " + (said.get("error") or ("clean" if said["clean"] else "errors: sanitizer.json")))
    return "\n".join(lines)


def _said(row: dict[str, Any], words: Callable[[dict[str, Any]], str]) -> str:
    return row["error"][:90] if "error" in row else words(row)


def _floor(row: dict[str, Any]) -> str:
    rate, speed = row["flops_per_second"] / 1e12, row["bytes_per_second"] / 1e12
    return (
        f"  floor {row['ms']:.3f} ms = product {row['product_ms']:.3f} ({rate:.0f} TFLOP/s) + gathers "
        f"{row['gathers_ms']:.3f} + Adam {row['adam_ms']:.3f} ({speed:.2f} TB/s)"
    )


def _step(row: dict[str, Any]) -> str:
    return (
        f"{row['graph']['ms']:9.3f} ms ({row['graph']['how']}) {row['eager']['ms']:9.3f} ms (as called) "
        f"{row['to_floor']:6.2f} × floor {row['tokens_per_second'] / 1e6:7.2f} M tokens/s, "
        f"memory {100 * row['over_state']:+.0f} %"
    )


def _options(row: dict[str, Any]) -> str:
    return "".join(f"{name}={value} " for name, value in row.get("options", {}).items())


def _parts(parts: dict[str, float]) -> str:
    """Where the time goes, and where it could still be had: the largest first."""
    whole = parts["in all"]
    return ", ".join(f"{name} {ms:.3f} ({100 * ms / whole:.0f} %)" for name, ms in parts.items() if name != "in all")


def _operation(row: dict[str, Any]) -> str:
    return f"{row['ms']:9.3f} ms {row['to_floor']:6.2f} × floor ({row['how']})"
