"""Stages of a measurement, each in a process of its own, so that its peak of memory is its own; and the result."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monosem.bench import machine


def answer(figures: dict[str, Any]) -> None:
    """Print the figures of a stage, with the peak memory of this process, as its last line."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(figures | {"peak_gb": round(peak / 1e6, 2)}))


def run(script: str, stage: str, args: Namespace, options: Iterable[str]) -> dict[str, Any]:
    """Run one stage of a script in a process and return its figures.

    Args:
        options: names in ``args`` that the stage gets too, beside ``--only`` and ``--folder``.
    """
    command = [sys.executable, script, "--only", stage, "--folder", str(args.folder)]
    for name in options:
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1])


def conclude(result: dict[str, Any], out: Path | None) -> int:
    """Add load and machine, print the result and write it to a file, if one was named; 0."""
    result |= {"load_average_after": os.getloadavg()[0], "machine": machine.describe()}
    text = json.dumps(result, indent=2) + "\n"
    if out:
        out.write_text(text)
    print(text)
    return 0
