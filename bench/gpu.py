"""Everything that only a GPU can say, in one command: correctness first, then speed against that very card's floor.

    python bench/gpu.py --out DIR [--minutes 9] [--only tests,floor,step,ops,peers,sanitizer] [--shapes gpt2,llama3]

Nothing is built here; bench/README.md has the build command. Sections run in this order, within ``--minutes``, and are
written to ``DIR/<section>.json`` as they go, so that a run that was cut off loses nothing; a later call with the same
folder, GPU and commit builds on it. A shape, an operation or a library that fails stands in the JSON with its error,
and the rest goes on. No speed is measured before the GPU tests of this commit are green. Exit code: 0, 1 when
something of ours failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu_run
import torch
from gpu_run import NO_TIME, Run
from gpu_tasks import BACKENDS

import monosem
from monosem import doctor
from monosem.bench.machine import commit
from monosem.bench.workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
SECTIONS = ("tests", "floor", "step", "ops", "peers", "sanitizer")
SHAPES = ("gpt2", "gemma2", "llama3", "widest", "widest_relu", "million_gpu")
PYTEST = (sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider")
_OPERATIONS = (
    "encode", "rows", "adam_options", "triton_paths", "tensor_cores", "waits", "step_on_device", "torch_contract",
)  # fmt: skip
OPERATIONS = tuple(f"ops/test_{name}.py" for name in _OPERATIONS)
OPTIONS = ({"adam_state": "bf16"}, {"adam_state": "int8", "lazy_rows": True})


def describe() -> dict[str, Any]:
    """The card, driver, versions and commit of a run."""
    p = torch.cuda.get_device_properties(0)
    fields = "driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu"
    asked = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    git = ["git", "-C", str(HERE), "rev-parse", "--short=12", "HEAD"]
    return {
        "gpu": p.name, "capability": f"{p.major}.{p.minor}", "multiprocessors": p.multi_processor_count,
        "memory_bytes": p.total_memory, fields: said(asked), "torch": torch.__version__, "cuda": torch.version.cuda,
        "triton": said([sys.executable, "-c", "import triton; print(triton.__version__)"]),
        "python": sys.version.split()[0], "monosem": monosem.__version__, "commit": commit() or said(git),
        "cuda_kernels": doctor._cuda_module().why, "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }  # fmt: skip


def said(command: Sequence[str]) -> str | None:
    """First line of a command's output; None when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def run_tests(run: Run) -> None:
    """The GPU tests, then the operations' own tests on GPU tensors by each backend: each file in a process of its own,
    all together, for most of their time goes into compiling kernels on one core."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "exit_code": 0, "parts": []}
    parts: list[tuple[list[str], dict[str, str]]] = [([str(path)], {}) for path in sorted(TESTS.glob("gpu/test_*.py"))]
    parts += [([str(TESTS / f), "-k", "cuda"], {"MONOSEM_BACKEND": b}) for b in BACKENDS for f in OPERATIONS]
    begun = []
    for number, (what, variables) in enumerate(parts):
        report, log = run.folder / f"tests-{number}.xml", (run.folder / f"tests-{number}.log").open("w+")
        report.unlink(missing_ok=True)
        process = subprocess.Popen(
            [*PYTEST, f"--junitxml={report}", *what], stdout=log, stderr=log, cwd=HERE.parent,
            env={**os.environ, **variables},
        )  # fmt: skip
        begun.append((process, report, log, {"what": Path(what[0]).name, **variables}))
    for process, report, log, about in begun:
        try:
            code, said_last = process.wait(timeout=max(60.0, run.left)), ""
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            code, said_last = 124, f"stopped after {error.timeout:.0f} s"
        log.seek(0)
        tail = (log.read() + said_last)[-6000:]
        log.close()
        part = about | counts(report) | {"exit_code": code, "tail": tail if code else tail[-300:]}
        for used in (report, Path(log.name)):
            used.unlink(missing_ok=True)
        found["parts"].append(part)
        for name in ("passed", "failed", "skipped"):
            found[name] += part[name]
        found["exit_code"] = found["exit_code"] or code
        run.keep("tests", found | {"of": len(begun)})


def counts(report: Path) -> dict[str, int]:
    """Passed, failed and skipped of a JUnit file; all 0 where there is none."""
    if not report.exists():
        return {"passed": 0, "failed": 0, "skipped": 0}
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, failed, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return {"passed": total - failed - errors - skipped, "failed": failed + errors, "skipped": skipped}


def green(tests: dict[str, Any] | None) -> bool:
    """Every part ran, some tests passed in each, and none failed."""
    return bool(tests) and len(tests["parts"]) == tests["of"] and all(
        part["exit_code"] == 0 and part["passed"] > 0 and part["failed"] == 0 for part in tests["parts"]
    )  # fmt: skip


def run_sanitizer(run: Run) -> None:
    """compute-sanitizer's memcheck and racecheck over the smallest tests of the CUDA kernels."""
    found: dict[str, Any] = {}
    tests = [*PYTEST, "-k", "sanitizer", str(TESTS / "gpu/test_cuda.py")]
    for tool in ("memcheck", "racecheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *tests]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=HERE.parent, timeout=max(30.0, run.left), check=False,
                env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            )  # fmt: skip
            out = done.stdout + done.stderr
            clean = done.returncode == 0 and " passed" in out
            found[tool] = {"clean": clean, "exit_code": done.returncode, "tail": out[-3000:]}
        except FileNotFoundError:
            found[tool] = {"error": "compute-sanitizer is not on PATH"}
        except subprocess.TimeoutExpired as error:
            found[tool] = {"error": f"stopped after {error.timeout:.0f} s"}
        run.keep("sanitizer", found)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the JSON goes")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after so long (default: 9)")
    all_but = ",".join(SECTIONS[:-1])
    parser.add_argument("--only", metavar="SECTIONS", default=all_but, help=f"(default: {all_but})")
    parser.add_argument("--shapes", default=",".join(SHAPES), metavar="NAMES", help=f"some of {','.join(WORKLOADS)}")
    parser.add_argument(
        "--python", action="append", default=[], metavar="PEER=PATH", help="interpreter of a library's own environment"
    )  # fmt: skip
    args = parser.parse_args(argv)
    args.only, args.shapes = args.only.split(","), args.shapes.split(",")
    for given, known, what in ((args.only, SECTIONS, "--only"), (args.shapes, WORKLOADS, "--shapes")):
        for name in given:
            if name not in known:
                parser.error(f"{what}: got {name!r}; wanted some of {', '.join(known)}")
    for item in args.python:
        if item.split("=")[0] not in gpu_run.PEERS or "=" not in item:
            parser.error(f"--python: got {item!r}; wanted NAME=PATH with a name of {', '.join(gpu_run.PEERS)}")
    args.python = dict(item.split("=", 1) for item in args.python)
    return args


def speeds(run: Run, args: argparse.Namespace) -> None:
    """The sections that measure, in order."""
    if "floor" in args.only or run.stored("floor") is None:
        gpu_run.measure(run, "floor", [{"section": "floor", "shape": shape} for shape in args.shapes])
    for section in ("step", "ops"):
        if section in args.only:
            print(f"{section}: {run.left:.0f} s left", flush=True)
            limits = {shape: gpu_run.rates(run, shape) for shape in args.shapes}
            tasks = [
                {"section": section, "shape": shape, "backend": backend, "rates": limits[shape]}
                for shape in args.shapes if limits[shape] for backend in BACKENDS
            ]  # fmt: skip
            if section == "step":  # after all others: what less memory costs in time
                tasks += [
                    {"section": section, "shape": shape, "backend": BACKENDS[0], "rates": limits[shape], "options": o}
                    for o in OPTIONS for shape in args.shapes if limits[shape]
                ]  # fmt: skip
            gpu_run.measure(run, section, tasks)
    if "peers" in args.only:
        print(f"peers: {run.left:.0f} s left", flush=True)
        gpu_run.peers(run, args.shapes, args.python)
    if "sanitizer" in args.only:
        run_sanitizer(run)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
        print(f"no GPU: PyTorch {torch.__version__} ({built}) finds none. Nothing was measured.", file=sys.stderr)
        return 2
    run = Run(args.out, args.minutes, describe())
    about = run.about
    print(f"{about['gpu']}, PyTorch {about['torch']}, Triton {about['triton']}, commit {about['commit']}", flush=True)
    if "tests" in args.only:
        run_tests(run)
    if not green(run.stored("tests")):
        for part in run.results.get("tests", {}).get("parts", []):
            if part["exit_code"]:
                print(part["tail"])
        print(
            "The GPU tests of this commit are not green on this GPU (--only tests): no speed is measured.",
            file=sys.stderr,
        )
        return 1
    speeds(run, args)
    print(gpu_run.table(run, args.shapes))
    ours = [row for section in ("floor", "step", "ops") for row in run.results.get(section, {}).get("rows", [])]
    return 1 if any(row.get("error", NO_TIME) != NO_TIME for row in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
