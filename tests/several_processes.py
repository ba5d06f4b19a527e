"""A worker program that starts several processes, and what each of them wrote down, for the tests of a file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def started(program: str, folder: Path) -> Iterator[tuple[Path, subprocess.Popen]]:
    """The folder that the processes write to, and the process that started them; ended with it."""
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, program, str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        yield folder, process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def records(runs: tuple[Path, subprocess.Popen], name: str, size: int, seconds: float) -> list[Any]:
    """What each of ``size`` processes wrote as ``name.RANK.pt``, once all have; their words where one failed."""
    folder, process = runs
    written = [folder / f"{name}.{rank}.pt" for rank in range(size)]
    until = time.monotonic() + seconds
    while not all(path.exists() for path in written):
        ended = process.poll() is not None or time.monotonic() > until
        if ended or list(folder.glob(f"failed.{size}.*")):
            said = [*sorted(folder.glob("failed.*")), folder / "said"]
            raise AssertionError("\n".join(path.read_text() for path in said)[-6000:])
        time.sleep(0.05)
    return [torch.load(path, weights_only=False) for path in written]
