"""A process that takes training steps on request: ``python worker.py ENTRANT.py JOB.json``.

It runs under the interpreter of the library that it measures, in that library's own environment, so it imports PyTorch
and the entrant only, nothing of monosem. One line of JSON comes in, one goes out:

    {"do": "steps", "first": 0, "count": 2, "untimed": 1}   ``untimed`` steps, then ``count`` timed ones
    {"do": "evaluate"}                                     the entrant's evaluation of the held-out batch
    {"do": "run"}                                          the entrant's own run, for whole programs

An entrant is a file with ``build(job, weights)``, which returns an object with ``step(x)`` (the loss, or None),
``evaluate(x) -> dict``, or ``run() -> dict``, and may have ``notes`` and ``packages`` (lists of strings). While
others take steps this process blocks in a read.
"""

import ctypes
import gc
import importlib.util
import json
import os
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path

RESERVE = 1 << 30  # bytes that stay free for the rest of the machine


def status(field: str) -> int | None:
    """A size from ``/proc/self/status`` in bytes; None where there is no such file."""
    path = Path("/proc/self/status")
    if not path.exists():
        return None
    line = next(line for line in path.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    """Reset the peak of the resident memory (Linux; elsewhere it is that of the whole life of the process)."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def stay_in_memory() -> None:
    """Lock the pages of this process where the system permits it (Linux: CAP_IPC_LOCK, or an unlimited RLIMIT_MEMLOCK).

    While others take steps this process waits, and some systems swap the pages of processes that wait: they would be
    read back inside the timed steps, the more of them the more entrants take turns. Pages are locked as they are first
    touched, so that the resident memory stays what the entrant uses.
    """
    if locking_is_unlimited():
        current, future, on_fault = 1, 2, 4
        ctypes.CDLL(None).mlockall(current | future | on_fault)


def locking_is_unlimited() -> bool:
    """A finite limit is not enough: above it the allocations of the entrant would fail."""
    path = Path("/proc/self/status")
    if sys.platform != "linux" or not path.exists():
        return False
    import resource  # POSIX

    ipc_lock = 1 << 14  # CAP_IPC_LOCK
    effective = next(line for line in path.read_text().splitlines() if line.startswith("CapEff:"))
    may = int(effective.split()[1], 16) & ipc_lock
    return bool(may) or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY


def limit_memory() -> None:
    """More memory than the machine has free becomes an error of the allocation, not a kill by the system."""
    info, data = Path("/proc/meminfo"), status("VmData")
    if data is None or not info.exists():
        return
    import resource  # POSIX, as /proc is

    line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable:"))
    free = int(line.split()[1]) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (max(data + (64 << 20), data + free - RESERVE), hard))


def stored(job: dict, *names: str) -> list:
    """Tensors of the job's data, mapped from the file."""
    import torch

    data = torch.load(job["data"], mmap=True)
    return [data[name] for name in names]


class Runner:
    """The entrant and its data, and the requests that it answers."""

    def __init__(self, script: str, job: dict) -> None:
        self.job = job
        if job.get("data"):
            self.batches, self.held_out = (t.clone() for t in stored(job, "batches", "held_out"))
        spec = importlib.util.spec_from_file_location("entrant", script)
        if spec is None or spec.loader is None:
            raise ImportError(f"script: got {script!r}; wanted a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules["entrant"] = module
        spec.loader.exec_module(module)
        stay_in_memory()
        self.before = status("VmRSS")
        limit_memory()
        names = ("W_enc", "W_dec", "b_enc", "b_dec")
        weights = dict(zip(names, stored(job, *names), strict=True)) if job.get("data") else {}
        self.entrant = module.build(job, weights)
        # Pages of the file count as resident while they are mapped: they must be in neither figure.
        weights.clear()
        gc.collect()
        reset_peak()

    def ready(self) -> dict:
        packages = [*(["torch"] * ("torch" in sys.modules)), *getattr(self.entrant, "packages", [])]
        return {
            "notes": list(getattr(self.entrant, "notes", [])),
            "versions": {name: metadata.version(name) for name in packages},
        }

    def steps(self, first: int, count: int, untimed: int = 0) -> dict:
        limit_memory()
        seconds, processor, loss = [], [], None
        for i in range(untimed + count):
            x = self.batches[(first + i) % len(self.batches)]
            begin, used = time.perf_counter(), time.process_time()
            loss = self.entrant.step(x)
            if i >= untimed:
                seconds.append(time.perf_counter() - begin)
                processor.append(time.process_time() - used)
        return {"seconds": seconds, "cpu_seconds": processor, "loss": loss, "peak_bytes": self._peak()}

    def evaluate(self) -> dict:
        return {name: float(value) for name, value in self.entrant.evaluate(self.held_out).items()}

    def run(self) -> dict:
        limit_memory()
        return self.entrant.run() | {"peak_bytes": self._peak()}

    def _peak(self) -> int | None:
        """Most resident memory since the entrant was built, above what the process had before."""
        peak = status("VmHWM")
        return None if peak is None or self.before is None else peak - self.before


def main() -> None:
    # Python puts this folder first on its path, where `profile.py` would hide the standard library's module.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    # Output of libraries must not mix with the lines of the protocol: it is redirected to the log.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(message: dict) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    def fail(error: BaseException) -> None:
        traceback.print_exc()
        text = str(error).strip()
        say({"error": f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"})

    try:
        runner = Runner(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
        say(runner.ready())
    except BaseException as error:
        fail(error)
        return
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            say(getattr(runner, asked.pop("do"))(**asked))
        except BaseException as error:
            fail(error)
            return


if __name__ == "__main__":
    main()
