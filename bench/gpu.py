"""Measure on a GPU in one command: the tests of each backend, then its times against the floor of that card.

    python bench/gpu.py --out DIR [--anyway] [--only SECTIONS] [--shapes NAMES] [--minutes 8.5]
    python bench/gpu.py --rehearse --out DIR

Nothing is built here; bench/README.md has the build command. Sections run in this order, within ``--minutes``, and are
written to ``DIR/<section>.json`` as they go; the same command again, with the same folder, GPU, commit and build,
continues. A backend whose tests are not green is not measured; with ``--anyway`` it is, and each row has the outcome of
its tests. A test file, shape, operation or library that fails, hangs or ends its process is recorded with its error,
and the rest continues. ``--rehearse`` runs all of it on a CPU, with Triton's interpreter and tiny shapes,
and breaks a test and a kernel on purpose.

Exit code: 0, 1 when something of ours failed (in a rehearsal: other than on purpose), 2 without a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()  # imports take time too

import gpu_checks  # noqa: E402
import gpu_peers  # noqa: E402
import gpu_table  # noqa: E402
import gpu_worker  # noqa: E402
import torch  # noqa: E402
from gpu_run import Run  # noqa: E402
from gpu_tasks import BACKENDS  # noqa: E402

import monosem  # noqa: E402
from monosem import doctor, kernels  # noqa: E402
from monosem.bench.machine import commit  # noqa: E402
from monosem.bench.workloads import WORKLOADS  # noqa: E402
from monosem.nn import registry  # noqa: E402

HERE = Path(__file__).resolve().parent
SECTIONS = ("tests", "floor", "step", "kernels", "ops", "peers", "sanitizer")
SHAPES = ("gpt2", "widest", "llama3", "gemma2", "widest_relu", "million_gpu")  # in order of importance
OPTIONS = (
    {"product": "int8"},
    {"adam_state": "bf16"},
    {"adam_state": "int8", "lazy_rows": True},
    {"dead": 0.05},
)
FOR_TESTS = 0.5  # of the time, where measurements follow


def describe() -> dict[str, Any]:
    """The card, driver, versions and commit of a run."""
    p = torch.cuda.get_device_properties(0)
    fields = "driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu"
    asked = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    return {
        "gpu": p.name,
        "capability": f"{p.major}.{p.minor}",
        "multiprocessors": p.multi_processor_count,
        "memory_bytes": p.total_memory,
        fields: first_line(asked),
        **versions(),
    }


def versions() -> dict[str, Any]:
    git = ["git", "-C", str(HERE), "rev-parse", "--short=12", "HEAD"]
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = None
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton,
        "python": sys.version.split()[0],
        "monosem": monosem.__version__,
        "commit": commit() or first_line(git),
        "sources": sources(),
        "cuda_kernels": doctor._cuda_module().why,
        "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def first_line(command: Sequence[str]) -> str | None:
    """First line of a command's output; None when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def sources() -> str:
    """Digest of the package that is measured, its compiled modules and its tests: a commit alone does not cover
    later changes."""
    digest = hashlib.sha256()
    package = Path(monosem.__file__).parent
    kinds = (".py", ".so", ".cuh", ".h")
    folders = [package / name for name in ("ops", "nn", "train", "bench")]
    folders += map(Path, kernels.__path__)  # in a checkout they lie beside the package
    folders += [gpu_checks.TESTS / "gpu", gpu_checks.TESTS / "ops"]
    paths = [(folder.parent, path) for folder in folders for path in folder.rglob("*")]
    for root, path in sorted([*paths, *((package, path) for path in package.iterdir())]):
        if path.suffix in kinds and path.is_file():
            digest.update(f"{path.relative_to(root)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the JSON goes")
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.5,
        metavar="M",
        help="begin nothing new after so long; what has begun may take half a minute more (default: 8.5)",
    )
    all_but = ",".join(SECTIONS[:-1])
    parser.add_argument("--only", metavar="SECTIONS", help=f"some of {','.join(SECTIONS)} (default: {all_but})")
    parser.add_argument(
        "--shapes", metavar="NAMES", help=f"some of {','.join(WORKLOADS)} (default: {','.join(SHAPES)})"
    )
    parser.add_argument("--anyway", action="store_true", help="also measure a backend whose tests are not green")
    parser.add_argument("--again", action="store_true", help="repeat the measurements of an earlier call")
    parser.add_argument(
        "--rehearse", action="store_true", help="run everything on a CPU: its figures are not those of a GPU"
    )
    parser.add_argument(
        "--python", action="append", default=[], metavar="PEER=PATH", help="interpreter of a library's own environment"
    )
    parser.add_argument(
        "--packages", type=Path, metavar="DIR", help="of the other libraries, a folder each (bench/README.md)"
    )
    args = parser.parse_args(argv)
    args.known = WORKLOADS
    if args.rehearse:
        import gpu_rehearse

        args.known = gpu_rehearse.SHAPES
    args.only = (args.only or all_but).split(",")
    args.shapes = args.shapes.split(",") if args.shapes else list(args.known if args.rehearse else SHAPES)
    for given, known, what in ((args.only, SECTIONS, "--only"), (args.shapes, args.known, "--shapes")):
        for name in given:
            if name not in known:
                parser.error(f"{what}: got {name!r}; wanted some of {', '.join(known)}")
    for item in args.python:
        if item.split("=")[0] not in gpu_peers.PEERS or "=" not in item:
            parser.error(f"--python: got {item!r}; wanted NAME=PATH with a name of {', '.join(gpu_peers.PEERS)}")
    if args.packages is not None and not args.packages.is_dir():
        parser.error(f"--packages: got {str(args.packages)!r}; wanted a folder, with one for each library in it")
    args.python = dict(item.split("=", 1) for item in args.python)
    if other := of_another_kind(args.out, args.rehearse):
        parser.error(f"--out: got {str(args.out)!r}, whose {other}; wanted another folder: the two are kept apart")
    return args


def of_another_kind(folder: Path, rehearsal: bool) -> str:
    """Name of a file of a rehearsal in a folder of measurements, or the reverse; empty if there is none."""
    for path in sorted(folder.glob("*.json")):
        about = json.loads(path.read_text()).get("about", {})
        if bool(about.get("rehearsal")) != rehearsal:
            return f"{path.name} is of {'a GPU' if rehearsal else 'a rehearsal'}"
    return ""


def measured(run: Run, args: argparse.Namespace, backends: Sequence[str]) -> tuple[list[str], list[str]]:
    """Backends to measure, and why others are not. Selection is Triton's, and a part of every backend's step."""
    able, why = [], []
    for backend in backends:
        state = gpu_checks.state(run, "step", {"backend": backend})
        if state == "green" or args.anyway:
            able.append(backend)
        else:
            why.append(f"{backend}: the tests of this build on this GPU are {state}; not measured (--anyway does)")
    return able, why


def tasks(run: Run, args: argparse.Namespace, backends: Sequence[str], options: Sequence[dict], **more: Any) -> list:
    """Steps, kernels and operations, in order; of the default backend before the other."""
    rates = {shape: run.rates(shape) for shape in args.shapes}  # None: times without a floor

    def one(section: str, shape: str, backend: str, **about: Any) -> dict[str, Any]:
        return {"section": section, "shape": shape, "backend": backend, "rates": rates[shape], **about, **more}

    todo = []
    for section in ("step", "kernels", "ops"):
        if section in args.only:
            todo += [one(section, shape, backend) for backend in backends for shape in args.shapes]
        if section == "step" and section in args.only and backends:  # time that less memory, or dead features, cost
            todo += [
                one(section, shape, backends[0], options=some)
                for some in options
                for shape in args.shapes
                if "dead" not in some or registry.setting(WORKLOADS[shape].kind, aux_k=None)
            ]
    return todo


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.rehearse:
        return rehearse(args)
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
        print(f"no GPU: PyTorch {torch.__version__} ({built}) finds none. Nothing was measured.", file=sys.stderr)
        return 2
    run = Run(args.out, args.minutes, describe(), began=BEGAN, state=gpu_checks.state)
    about = run.about
    print(f"{about['gpu']}, PyTorch {about['torch']}, Triton {about['triton']}, commit {about['commit']}", flush=True)
    if "tests" in args.only:
        share = FOR_TESTS if len(args.only) > 1 else 1.0
        together = max(1, (os.cpu_count() or 1) // 2)
        gpu_checks.run_tests(run, gpu_checks.parts(), max(60.0, share * run.left), together, args.again)
        run.mark()
    able, why = measured(run, args, BACKENDS)
    for line in why:
        print(line, file=sys.stderr)
    speeds(run, args, able, OPTIONS)
    if "peers" in args.only:
        gpu_peers.measure(run, args.shapes, args.python, args.packages, again=args.again)
    if "sanitizer" in args.only:
        gpu_checks.run_sanitizer(run)
    red = any(gpu_checks.outcome(part) == "red" for part in (run.stored("tests") or {"parts": []})["parts"])
    return 1 if finish(run, args) or red or why else 0


def speeds(
    run: Run,
    args: argparse.Namespace,
    backends: Sequence[str],
    options: Sequence[dict],
    *,
    environment: dict[str, str] | None = None,
    **more: Any,
) -> None:
    """The sections that measure, in order."""
    if {"floor", "step", "kernels", "ops"} & set(args.only):
        floors = [{"section": "floor", "shape": shape, **more} for shape in args.shapes]
        gpu_worker.measure(run, floors, environment=environment, again=args.again and "floor" in args.only)
        print(f"steps, kernels, operations: {run.left:.0f} s left", flush=True)
        todo = tasks(run, args, backends, options, **more)
        gpu_worker.measure(run, todo, environment=environment, again=args.again)


def finish(run: Run, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and write the table; returns the rows of ours that lack something for another reason than time."""
    table = gpu_table.table(run, args.shapes)
    print(table)
    run.write("table.txt", table + "\n")
    return [row for row in gpu_table.failures(run) if not gpu_table.only_time(row)]


def rehearse(args: argparse.Namespace) -> int:
    """All of it on a processor."""
    import gpu_rehearse

    about = {"rehearsal": True, "gpu": gpu_rehearse.GPU, **versions()}
    run = Run(args.out, args.minutes, about, began=BEGAN, state=gpu_checks.state)
    print(gpu_table.REHEARSAL, flush=True)
    emulated = gpu_rehearse.emulator()
    backends = BACKENDS if emulated else BACKENDS[:1]
    args.anyway = args.again = True
    if "tests" in args.only:
        with tempfile.TemporaryDirectory() as folder:
            parts = gpu_rehearse.parts(Path(folder), backends)
            gpu_checks.run_tests(run, parts, max(60.0, run.left / 2), os.cpu_count() or 1, again=True)
    able, _ = measured(run, args, backends)
    speeds(
        run,
        args,
        able,
        gpu_rehearse.OPTIONS,
        environment=gpu_rehearse.INTERPRETED,
        rehearsal={"emulated": emulated},
        copied=gpu_rehearse.COPIED,
    )
    if "peers" in args.only:
        gpu_peers.measure(run, args.shapes, args.python, args.packages, device="cpu", variants=gpu_peers.QUICK, steps=3)
    if "sanitizer" in args.only:
        gpu_checks.run_sanitizer(run)
    finish(run, args)
    wrong = gpu_rehearse.verdict(run, args.shapes, able)
    for line in wrong:
        print(line, file=sys.stderr)
    print("rehearsal: what was broken on purpose was told, all else has a figure" if not wrong else "rehearsal: FAILED")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the child processes
    sys.exit(main())
