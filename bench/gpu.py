"""Everything that only a GPU can say, in one command: correctness first, then speed against that very card's floor.

    python bench/gpu.py --out results_gpu [--minutes 9] [--only tests,floor,ops,step,peers,sanitizer] [--shapes gpt2,…]

Nothing is built here; bench/README.md has the build command. Sections run in this order, each within what is left of
``--minutes``, and each is written to ``DIR/<section>.json`` as it goes, so that a run that was cut off loses nothing. A
shape, operation or library that fails stands in the JSON with its error, and the rest goes on. No speed is measured
before the GPU tests of this commit are green. Exit code: 0, 1 when something of ours failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from monosem.bench import floor, operations
from monosem.bench.workloads import WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
SECTIONS = ("tests", "floor", "ops", "step", "peers", "sanitizer")
DEFAULT = ("tests", "floor", "step", "ops", "peers")
SHAPES = ("gpt2", "gemma2", "llama3", "widest", "widest_relu", "million_gpu")
BACKENDS = ("triton", "cuda")
PEERS = {  # title: file of the contestant, what must be importable, variants
    "PyTorch": (HERE.parent / "python/monosem/bench/contestants/dense.py", "torch", ("eager", "compiled")),
    "sparsify": (HERE / "contestants/sparsify_step.py", "sparsify", ("",)),
    "SAELens": (HERE / "contestants/sae_lens_step.py", "sae_lens", ("dense", "sparse")),
    "dictionary_learning": (HERE / "contestants/dictionary_learning_step.py", "dictionary_learning", ("",)),
}
ENGINE = HERE.parent / "python/monosem/bench/contestants/engine.py"
PRECISIONS = ("default", "bf16")


class Run:
    """The folder, the time that is left, and what was measured so far."""

    def __init__(self, folder: Path, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.now, self.end = folder, now, now() + 60 * minutes
        self.results: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - self.now()

    def keep(self, section: str, result: dict[str, Any]) -> None:
        """Write a section's state: whole or not at all."""
        self.results[section] = result
        path = self.folder / f"{section}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n")
        part.replace(path)

    def stored(self, section: str, about: dict[str, Any]) -> dict[str, Any] | None:
        """What an earlier call with this folder found, if it was on the same GPU and commit."""
        path = self.folder / f"{section}.json"
        if section not in self.results and path.exists():
            found = json.loads(path.read_text())
            if all(found.get("about", {}).get(key) == about[key] for key in ("commit", "gpu")):
                self.results[section] = found
        return self.results.get(section)


def attempt(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the call returns, or its error; memory that a failed call held is given back."""
    try:
        return call()
    except Exception as error:
        text = str(error).strip().splitlines()
        result = {"error": f"{type(error).__name__}: {text[0][:300] if text else 'no message'}"}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return result


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


def describe() -> dict[str, Any]:
    """The card, driver, versions and commit of a run."""
    import triton

    import monosem
    from monosem import doctor
    from monosem.bench.machine import commit

    p = torch.cuda.get_device_properties(0)
    asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu", "--format=csv,noheader"]
    try:
        smi = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        smi = ""
    head = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return {
        "gpu": p.name, "capability": f"{p.major}.{p.minor}", "multiprocessors": p.multi_processor_count,
        "memory_bytes": p.total_memory, "driver_clocks_power_temperature": smi, "torch": torch.__version__,
        "cuda": torch.version.cuda, "triton": triton.__version__, "python": sys.version.split()[0],
        "monosem": monosem.__version__, "commit": commit() or head.stdout.strip() or None,
        "cuda_kernels": doctor._cuda_module().why, "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- correctness


def run_tests(run: Run, about: dict[str, Any]) -> dict[str, Any]:
    """pytest of the GPU tests in a process of its own; green means that some passed and none failed."""
    report = run.folder / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", f"--junitxml={report}", str(HERE.parent / "tests/gpu")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, timeout=max(60.0, run.left))
        code, tail = done.returncode, (done.stdout + done.stderr)[-6000:]
    except subprocess.TimeoutExpired as error:
        code, tail = 124, f"stopped after {error.timeout:.0f} s"
    return {"about": about, "exit_code": code, **counts(report), "tail": tail if code else tail[-300:]}


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
    return bool(tests) and tests["exit_code"] == 0 and tests["passed"] > 0 and tests["failed"] == 0


def run_sanitizer(run: Run, about: dict[str, Any]) -> dict[str, Any]:
    """compute-sanitizer's memcheck and racecheck over the smallest GPU tests of the CUDA kernels."""
    found: dict[str, Any] = {"about": about}
    for tool in ("memcheck", "racecheck"):
        test = str(HERE.parent / "tests/gpu/test_cuda.py")
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--target-processes", "all",
                   sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-k", "sanitizer", test]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=HERE.parent, timeout=max(30.0, run.left),
                env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            )  # fmt: skip
            said = (done.stdout + done.stderr)[-2000:]
            found[tool] = {"clean": done.returncode == 0 and " passed" in said, "exit_code": done.returncode, "tail": said}
        except FileNotFoundError:
            found[tool] = {"error": "compute-sanitizer is not on PATH"}
        except subprocess.TimeoutExpired as error:
            found[tool] = {"error": f"stopped after {error.timeout:.0f} s"}
        run.keep("sanitizer", found)
    return found


# ---------------------------------------------------------------------------------------------------- speed


def run_floor(run: Run, about: dict[str, Any], shapes: list[Workload], clock: Any) -> dict[str, Any]:
    """Copy bandwidth and matrix products of this card, and from them the least time of a step of each shape."""
    import gpu_clock

    found: dict[str, Any] = {"about": about, "shapes": {}}
    found["bytes_per_second"] = gpu_clock.copy_bytes_per_second(clock)
    for w in shapes:

        def one(w: Workload = w) -> dict[str, Any]:
            rate = gpu_clock.product_flops_per_second(clock, w.n, w.d, min(w.f, 16_384), torch.bfloat16)
            return floor.step(w, floor.Rates(rate, found["bytes_per_second"], "bf16"))

        found["shapes"][w.name] = attempt(one)
        run.keep("floor", found)
    return found


def rates(run: Run, w: Workload) -> floor.Rates:
    """What the floor section measured for this shape. Raises KeyError when it has not."""
    one = run.results["floor"]["shapes"][w.name]
    return floor.Rates(one["flops_per_second"], one["bytes_per_second"], one["product"])


def run_ops(run: Run, about: dict[str, Any], shapes: list[Workload], clock: Any) -> dict[str, Any]:
    """Every operation by each backend, beside its own floor."""
    found: dict[str, Any] = {"about": about, "shapes": {}}
    for w in shapes:
        rows = found["shapes"].setdefault(w.name, {"rows": []})
        if run.left < 20:
            rows["error"] = "no time was left"
            continue

        def one(w: Workload = w, rows: dict[str, Any] = rows) -> dict[str, Any]:
            speed = rates(run, w)
            for op in operations.operations(w, "cuda"):
                for backend in BACKENDS:
                    if run.left < 10:
                        return {"error": "no time was left"}
                    with environment(MONOSEM_BACKEND=backend), torch.no_grad():
                        row = attempt(lambda op=op: operation_row(clock, op, speed))
                    rows["rows"].append({"name": op.name, "backend": backend} | row)
                    run.keep("ops", found)
            return {}

        rows |= attempt(one)
        torch.cuda.empty_cache()
        run.keep("ops", found)
    return found


def operation_row(clock: Any, op: operations.Operation, speed: floor.Rates) -> dict[str, Any]:
    """Time of an operation, its floor, and how near it comes."""
    timing = clock.time(op.call)
    least = 1e3 * speed.seconds(op.flops, op.moved)
    return timing.to_json() | {
        "floor_ms": least, "to_floor": timing.ms / least,
        "bytes_per_second": op.moved / (1e-3 * timing.ms), "flops_per_second": op.flops / (1e-3 * timing.ms),
    }  # fmt: skip


def run_step(run: Run, about: dict[str, Any], shapes: list[Workload], clock: Any) -> dict[str, Any]:
    """monosem's step by each backend: as a graph, as it is called, and with its memory."""
    found: dict[str, Any] = {"about": about, "shapes": {}}
    for w in shapes:
        rows = found["shapes"].setdefault(w.name, {"rows": []})
        for backend in (*BACKENDS, "native"):
            if run.left < 15:
                rows["rows"].append({"backend": backend, "error": "no time was left"})
                continue
            with environment(MONOSEM_BACKEND=backend):
                row = attempt(lambda w=w: step_row(clock, w, rates(run, w)))
            rows["rows"].append({"backend": backend} | row)
            torch.cuda.empty_cache()
            run.keep("step", found)
    return found


def step_row(clock: Any, w: Workload, speed: floor.Rates) -> dict[str, Any]:
    """One step of this workload: time as a graph and as called, floor, peak memory above the weights and Adam."""
    import gpu_peer

    import monosem as ms
    from monosem.train.step import FastStep

    job = w.to_json() | {"kind": w.kind}
    batches, start = gpu_peer.start(job, torch.device("cuda"))
    make = ms.TopKSAE(w.d, w.f, w.k, device="cuda") if w.kind == "topk" else ms.ReLUSAE(w.d, w.f, w.l1, device="cuda")
    with torch.no_grad():
        for mine, name in ((make.W_enc_rows, "W_enc"), (make.W_dec, "W_dec"), (make.b_enc, "b_enc"), (make.b_dec, "b_dec")):
            mine.copy_(start[name])
    start.clear()
    before = torch.cuda.memory_allocated() - sum(p.numel() * 4 for p in make.parameters())
    step = FastStep(make)
    losses = [float(step(batches[i % 4], w.lr).loss) for i in range(3)]
    torch.cuda.reset_peak_memory_stats()
    losses.append(float(step(batches[3], w.lr).loss))
    peak, state = torch.cuda.max_memory_allocated() - before, w.state_bytes(True)
    best = floor.step(w, speed)
    eager = clock.time(lambda: step(batches[0], w.lr), graph=False)
    graph = clock.time(lambda: step(batches[0], w.lr))
    return {
        "graph": graph.to_json(), "eager": eager.to_json(), "floor_ms": best["ms"],
        "to_floor": min(graph.ms, eager.ms) / best["ms"], "floor": best,
        "tokens_per_second": w.n / (1e-3 * min(graph.ms, eager.ms)), "losses": losses,
        "peak_bytes": peak, "state_bytes": state, "over_state": peak / state - 1,
    }  # fmt: skip


def run_peers(run: Run, about: dict[str, Any], shapes: list[Workload], pythons: dict[str, str]) -> dict[str, Any]:
    """Steps of the other libraries, and of ours, through their own interfaces, each in a process of its own."""
    found: dict[str, Any] = {"about": about, "shapes": {}}
    todo = [("monosem", ENGINE, "monosem", "", "default")]
    todo += [
        (title, script, module, variant, precision)
        for title, (script, module, variants) in PEERS.items() for variant in variants for precision in PRECISIONS
    ]  # fmt: skip
    missing: dict[str, str] = {}
    for w in shapes:
        rows = found["shapes"].setdefault(w.name, {"rows": []})["rows"]
        for title, script, module, variant, precision in todo:
            python = pythons.get(title, sys.executable)
            row = {"name": title, "variant": variant, "precision": precision}
            if title not in missing:
                missing[title] = importable(python, module)
            if missing[title]:
                row["error"] = missing[title]
            elif run.left < 20:
                row["error"] = "no time was left"
            else:
                job = w.to_json() | {
                    "script": str(script), "variant": variant, "precision": precision, "device": "cuda",
                    "threads": torch.get_num_threads(), "steps": 20, "seconds": 8.0,
                }  # fmt: skip
                row |= in_a_process(python, job, run.left)
            rows.append(row)
            run.keep("peers", found)
    return found


def importable(python: str, module: str) -> str:
    """Why the module cannot be imported there; empty when it can."""
    done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]


def in_a_process(python: str, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """``gpu_peer.py`` on this job."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "job.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(job))
        try:
            done = subprocess.run(
                [python, str(HERE / "gpu_peer.py"), str(asked), str(answer)], capture_output=True, text=True,
                timeout=max(20.0, min(180.0, seconds)), check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            return {"error": f"stopped after {error.timeout:.0f} s"}
        if not answer.exists():
            return {"error": f"its process ended with {done.returncode}: {done.stderr.strip()[-200:]}"}
        return json.loads(answer.read_text())


# ---------------------------------------------------------------------------------------------------- the command


def table(results: dict[str, Any]) -> str:
    """A short table: a line for each shape's step, then its operations and the others' steps."""
    lines = []
    tests = results.get("tests")
    if tests:
        lines.append(f"GPU tests: {tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped")
    for name, limits in results.get("floor", {}).get("shapes", {}).items():
        lines.append(f"\n{name}: " + (limits["error"] if "error" in limits else (
            f"floor {limits['ms']:.3f} ms = product {limits['product_ms']:.3f} ({limits['flops_per_second'] / 1e12:.0f} "
            f"TFLOP/s) + gathers {limits['gathers_ms']:.3f} + Adam {limits['adam_ms']:.3f} "
            f"({limits['bytes_per_second'] / 1e12:.2f} TB/s)"
        )))  # fmt: skip
        ours = None
        for row in rows_of(results, "step", name):
            if "error" in row:
                lines.append(f"  step {row['backend']:8} {row['error']}")
                continue
            best = min(row["graph"]["ms"], row["eager"]["ms"])
            ours = best if ours is None else min(ours, best)
            lines.append(
                f"  step {row['backend']:8} {row['graph']['ms']:9.3f} ms ({row['graph']['how']}) {row['eager']['ms']:9.3f} "
                f"ms (eager) {row['to_floor']:5.2f} × floor {row['tokens_per_second'] / 1e6:6.2f} M tokens/s, memory "
                f"{100 * row['over_state']:+.0f} %"
            )
        for row in rows_of(results, "peers", name):
            title = f"{row['name']} {row['variant']} {row['precision'] if row['precision'] != 'default' else ''}".strip()
            if "error" in row:
                lines.append(f"  {title:28} {row['error'][:90]}")
            else:
                ratio = f"{row['ms'] / ours:6.2f} × our step" if ours else ""
                lines.append(f"  {title:28} {row['ms']:9.3f} ms {ratio}")
        for row in rows_of(results, "ops", name):
            said = row["error"][:70] if "error" in row else f"{row['ms']:9.3f} ms {row['to_floor']:6.2f} × floor ({row['how']})"
            lines.append(f"  {row['name']:16} {row['backend']:7} {said}")
    for tool, said in results.get("sanitizer", {}).items():
        if tool != "about":
            lines.append(f"{tool}: " + (said.get("error") or ("clean" if said["clean"] else "errors, see sanitizer.json")))
    return "\n".join(lines)


def rows_of(results: dict[str, Any], section: str, shape: str) -> list[dict[str, Any]]:
    return results.get(section, {}).get("shapes", {}).get(shape, {}).get("rows", [])


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the JSON goes")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after so long (default: 9)")
    parser.add_argument("--only", metavar="SECTIONS", help=f"some of {','.join(SECTIONS)} (default: {','.join(DEFAULT)})")
    parser.add_argument("--shapes", default=",".join(SHAPES), metavar="NAMES", help=f"some of {','.join(WORKLOADS)}")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="interpreter of a library's own environment")  # fmt: skip
    args = parser.parse_args(argv)
    args.sections = tuple(args.only.split(",")) if args.only else DEFAULT
    args.workloads = args.shapes.split(",")
    for given, known, what in ((args.sections, SECTIONS, "--only"), (args.workloads, WORKLOADS, "--shapes")):
        for name in given:
            if name not in known:
                parser.error(f"{what}: got {name!r}; wanted some of {', '.join(known)}")
    args.pythons = dict(item.split("=", 1) for item in args.python)
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
        print(f"no GPU: PyTorch {torch.__version__} ({built}) finds none. Nothing was measured.", file=sys.stderr)
        return 2
    run, about = Run(args.out, args.minutes), describe()
    print(f"{about['gpu']}, PyTorch {about['torch']}, Triton {about['triton']}, commit {about['commit']}", flush=True)
    if "tests" in args.sections:
        run.keep("tests", run_tests(run, about))
    if not green(run.stored("tests", about)):
        tests = run.results.get("tests")
        print(tests["tail"] if tests else "run with --only tests first")
        print("The GPU tests of this commit are not green on this GPU: no speed is measured.", file=sys.stderr)
        return 1
    import gpu_clock

    shapes, clock = [WORKLOADS[name] for name in args.workloads], gpu_clock.Clock(torch.device("cuda"))
    timed = {"ops", "step"} & set(args.sections)
    if "floor" in args.sections or (timed and run.stored("floor", about) is None):
        run_floor(run, about, shapes, clock)
    todo = {
        "step": lambda: run_step(run, about, shapes, clock), "ops": lambda: run_ops(run, about, shapes, clock),
        "peers": lambda: run_peers(run, about, shapes, args.pythons), "sanitizer": lambda: run_sanitizer(run, about),
    }  # fmt: skip
    for name, section in todo.items():
        if name in args.sections:
            print(f"{name}: {run.left:.0f} s left", flush=True)
            run.keep(name, attempt(section) | {"about": about})
    print(table(run.results))
    broken = [row for name in ("step", "ops") for shape in run.results.get(name, {}).get("shapes", {}).values()
              for row in shape["rows"] if "error" in row]  # fmt: skip
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
