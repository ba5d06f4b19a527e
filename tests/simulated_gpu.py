"""A simulated card, clock and run for the tests of ``bench/gpu*.py``."""

import gpu_checks
import gpu_run
import torch

from monosem.bench.gpu_clock import Timing

ABOUT = {"gpu": "Made Up 9000", "commit": "abc", "sources": "1", "torch": "2", "triton": "3"}
RATES = {"flops_per_second": 1e12, "bytes_per_second": 1e11, "product": "bf16"}


class FakeClock:
    """Runs every call once and reports one millisecond."""

    device, broken = torch.device("cpu"), ""

    def __init__(self, fail=()):
        self.fail, self.calls = fail, 0

    def time(self, call, graph=True):
        self.calls += 1
        if self.calls in self.fail:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 TiB\nand more")
        call()
        return Timing(1.0, 0.9, 1.1, 5, "graph" if graph else "eager")

    def allocated(self):
        return 0

    def peak_bytes(self, call, before):
        call()
        return 1_000_000

    def breakdown(self, call):
        call()
        return {"in all": 1.0, "csc": 0.75, "between": 0.25}


def run_in(folder, minutes=1.0, now=None, about=ABOUT):
    return gpu_run.Run(folder, minutes, about, state=gpu_checks.state, **({"now": now} if now else {}))


def part(backend="triton", **changes):
    about = {"name": f"a {backend}", "backend": backend, "selection": False, "red": [], "tail": ""}
    return about | {"passed": 3, "failed": 0, "skipped": 1, "exit_code": 0} | changes


def kept_tests(*parts):
    total = {name: sum(p[name] for p in parts) for name in ("passed", "failed", "skipped")}
    return {"of": len(parts), "parts": list(parts), **total}
