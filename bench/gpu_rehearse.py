"""A rehearsal of ``gpu.py`` on a CPU: Triton's kernels interpreted, CUDA's emulated, tiny shapes.

One test is made red and one kernel ends its process, on purpose: everything else must come to a figure, and be marked
as what it is. ``gpu.py`` gets from here what stands in for the GPU, and nothing else differs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gpu_checks
import torch
from gpu_run import Run
from gpu_table import failures

from monosem.bench import gpu_clock, gpu_kernels
from monosem.bench.gpu_clock import Timing
from monosem.bench.workloads import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the emulator, and a faster setting of Triton's interpreter
SHAPES = {
    "rehearsal_topk": Workload(4, 16, 32, 2, name="rehearsal_topk"),
    "rehearsal_relu": Workload(4, 16, 32, 2, kind="relu", name="rehearsal_relu"),
}
WORKLOADS.update(SHAPES)
OPTIONS = ({"adam_state": "int8", "lazy_rows": True}, {"dead": 0.125})
GPU = "none: a rehearsal on a processor"
COPIED = 1 << 20
FAULTY = "gather_dot"  # in ``ops`` alone: no step uses it
RED = "cuda"  # the backend whose test is made to fail
INTERPRETED = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "MONOSEM_PRODUCT": "auto"}
FAULT = "an illegal memory access was encountered (on purpose: this is a rehearsal)"
PLANTED = """\
def test_green():
    assert 1 + 1 == 2


def test_red():
    raise AssertionError("red on purpose: this is a rehearsal")
"""


def emulator() -> str:
    """Path of the CUDA kernels for the processor, built where the tests keep them; empty where that cannot be."""
    from emulator import build

    if why := build.missing():
        print(f"rehearsal: the CUDA kernels are left out: {why}", flush=True)
        return ""
    return str(build.build(ROOT / ".pytest_cache" / "d" / "emulator"))


def parts(folder: Path, backends: Sequence[str]) -> list[gpu_checks.Part]:
    """A test of each backend's kernels, and one that is red."""
    planted = folder / "test_planted.py"
    planted.write_text(PLANTED)
    ops = gpu_checks.TESTS / "ops"
    triton = {**INTERPRETED, "MONOSEM_BACKEND": "triton"}
    parts = [gpu_checks.Part(ops / "test_rows.py", "triton", "resample and not cuda", triton)]
    if "cuda" in backends:  # with pytest's cache, which holds the emulator
        command = gpu_checks.PYTEST[:-2]
        parts.append(gpu_checks.Part(ops / "test_cuda_emulated.py", "cuda", "sort", INTERPRETED, command))
        parts.append(gpu_checks.Part(planted, RED, "", INTERPRETED))
    else:
        parts.append(gpu_checks.Part(planted, "triton", "", INTERPRETED))
    return parts


class Clock:
    """As ``gpu_clock.Clock`` on the processor: each call once, marked so; nothing is known of memory."""

    device, broken = torch.device("cpu"), ""

    def time(self, call: Callable[[], Any], graph: bool = True) -> Timing:
        begin = time.perf_counter()
        call()
        ms = 1e3 * (time.perf_counter() - begin)
        return Timing(ms, ms, ms, 1, "rehearsal")

    def breakdown(self, call: Callable[[], Any]) -> dict[str, float]:
        events: list[tuple[str, Any, Any]] = []
        with gpu_clock.operations_timed(events, gpu_kernels.HostEvent):
            begin, end = gpu_kernels.HostEvent(), gpu_kernels.HostEvent()
            begin.record()
            call()
            end.record()
        return gpu_clock.parts([(begin, end, events)])

    def allocated(self) -> int:
        return 0

    def peak_bytes(self, call: Callable[[], Any], before: int) -> None:
        call()


def stand_in(emulated: str) -> Clock:
    """Let operations on the processor's tensors go to the kernels for GPUs, one of which is broken."""
    from emulator import build
    from ops import conftest

    from monosem.ops import cuda_launch, gpu

    conftest._patch_the_language_once()
    gpu.interpreted = lambda: True
    cuda_launch.kernels = build.load(Path(emulated)) if emulated else None
    cuda_launch.stream = lambda t: 0
    gpu.implementation("gather_dot", "triton")  # imports the launcher, which is then replaced

    def launch(kernel: str, go: Callable[[], Any]) -> Any:
        if kernel == FAULTY and os.environ["MONOSEM_BACKEND"] == "triton":
            print(FAULT, file=sys.stderr, flush=True)
            os._exit(7)
        return go()

    gpu_kernels.STEPS = 1
    clock = Clock()
    clock.around = gpu_kernels.launches_wrapped(launch)  # held as long as the clock is
    clock.around.__enter__()
    return clock


def verdict(run: Run, shapes: Sequence[str], backends: Sequence[str]) -> list[str]:
    """Deviations from the expected result: only the parts broken on purpose may lack a figure."""
    wrong = [f"no figure: {row}" for row in failures(run) if not (row.get("name") == FAULTY and "7: " in row["error"])]
    tests = run.stored("tests")
    red = RED if RED in backends else "triton"
    if tests is not None and [part["red"] for part in tests["parts"] if part["red"]] != [["test_red"]]:
        wrong.append(f"tests: got {[part['red'] for part in tests['parts']]}; wanted test_red alone to be red")
    for section in ("step", "kernels", "ops"):
        if (stored := run.stored(section)) is None:
            continue
        for shape in shapes:
            for backend in backends:
                rows = [r for r in stored["rows"] if r["shape"] == shape and r["backend"] == backend]
                marks = {row["tests"] for row in rows}
                expected = {"not run"} if tests is None else {"red" if backend == red else "green"}
                if marks != expected:
                    wrong.append(f"{section}, {shape}, {backend}: marked {sorted(marks)}; wanted {sorted(expected)}")
        if section == "ops" and "triton" in backends and not any(row.get("name") == FAULTY for row in failures(run)):
            wrong.append(f"{FAULTY}: has a figure, though its kernel was broken")
    return wrong
