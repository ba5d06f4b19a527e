"""Steps of the other libraries and of ours through their own interfaces, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_run import NO_TIME, Row, Run

from monosem.bench.workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
ENTRANTS = HERE.parent / "python/monosem/bench/entrants"
PEERS = {  # title: file of the entrant, importable module, variants
    "monosem": (ENTRANTS / "engine.py", "monosem", ("",)),
    "PyTorch": (ENTRANTS / "dense.py", "torch", ("eager", "compiled")),
    "sparsify": (HERE / "libraries/sparsify_step.py", "sparsify", ("",)),
    "SAELens": (HERE / "libraries/sae_lens_step.py", "sae_lens", ("dense", "sparse")),
    "dictionary_learning": (HERE / "libraries/dictionary_learning_step.py", "dictionary_learning", ("",)),
}
QUICK, SLOW = ("", "eager", "dense", "sparse"), "compiled"  # most of a minute each: after everything else


def identity(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in ("shape", "name", "variant", "precision"))


def measure(
    run: Run,
    shapes: Sequence[str],
    pythons: dict[str, str],
    packages: Path | None = None,
    *,
    device: str = "cuda",
    variants: Sequence[str] = (*QUICK, SLOW),
    steps: int = 20,
    again: bool = False,
) -> None:
    """Every library on every shape, in the default precision and in bf16. Figures of an earlier call are kept.

    Args:
        pythons: interpreter of a library's own environment.
        packages: a folder with a folder of packages for each library, which its process finds first.
    """
    todo = [
        {"shape": shape, "name": title, "variant": variant, "precision": precision}
        for shape in shapes
        for title, (_, _, theirs) in PEERS.items()
        for variant in theirs
        if variant in variants
        for precision in (("default", "bf16") if title != "monosem" else ("default",))
    ]
    todo.sort(key=lambda row: row["variant"] == SLOW)
    stored = {} if again else run.stored("peers") or {}
    rows: dict[tuple[str, ...], Row] = {identity(row): row for row in stored.get("rows", [])}
    missing: dict[str, str] = {}
    for row in todo:
        if "ms" in rows.get(identity(row), ()):
            continue
        title = row["name"]
        script, module, _ = PEERS[title]
        python, own = pythons.get(title, sys.executable), packages and packages / module
        if title not in missing:
            missing[title] = importable(python, module, own)
        if missing[title]:
            row["error"] = missing[title]
        elif run.left < 20:
            row["error"] = NO_TIME
        else:
            job = WORKLOADS[row["shape"]].job() | {
                "script": str(script),
                "variant": row["variant"],
                "precision": row["precision"],
                "device": device,
                "steps": steps,
                "seconds": 5.0,
            }
            row |= in_a_process(python, job, run.left, own)
        rows[identity(row)] = row
        run.keep("peers", {"rows": list(rows.values())})


def path_of(own: Path | None) -> dict[str, str]:
    """The environment of a process that finds the packages of a folder first."""
    if own is None or not own.is_dir():
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(own), os.environ.get("PYTHONPATH"))))}


def importable(python: str, module: str, own: Path | None = None) -> str:
    """Why the module cannot be imported there; empty when it can."""
    here = python == sys.executable and (own is None or not own.is_dir())
    if here and importlib.util.find_spec(module) is None:
        return f"No module named {module!r}: bench/README.md says how to bring it"
    command = [python, "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=path_of(own))
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]


def in_a_process(python: str, job: dict[str, Any], seconds: float, own: Path | None = None) -> Row:
    """``gpu_peer.py`` on this job."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "job.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(job))
        command = [python, str(HERE / "gpu_peer.py"), str(asked), str(answer)]
        try:
            limit = max(20.0, min(180.0, seconds))
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=path_of(own))
        except subprocess.TimeoutExpired as error:
            return {"error": f"stopped after {error.timeout:.0f} s"}
        if not answer.exists():
            return {"error": f"its process ended with {done.returncode}: {done.stderr.strip()[-200:]}"}
        return json.loads(answer.read_text())
