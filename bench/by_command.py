"""Benchmarks made of monosem's own commands: what is in their folder of runs is not made again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import resumable

from monosem.bench import machine
from monosem.cli.main import main as monosem
from monosem.data import files


def made_with(args: argparse.Namespace, sizes: tuple[str, ...]) -> dict[str, Any]:
    """Sizes and digest of the text, written into the folder of runs.

    Raises:
        SystemExit: the folder was made with others.
    """
    now = {"training": {name: getattr(args, name) for name in sizes}, "text": resumable.digest(args.text)}
    record = args.runs / "made_with.json"
    if record.exists() and (before := json.loads(record.read_text())) != now:
        raise SystemExit(f"--runs: {args.runs} was made with {before}; got {now}. Give another folder")
    args.runs.mkdir(parents=True, exist_ok=True)
    files.write_text(record, json.dumps(now) + "\n")
    return now


def about(what: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """The head of a result: what it is, :func:`made_with`, machine and commit."""
    return {"what": what} | sizes | {"machine": machine.describe() | {"commit": resumable.commit()}}


def made(file: Path, command: str, *places: str | Path, **options: object) -> Path:
    """The folder of ``file``, which ``monosem COMMAND PLACES --options`` writes there, if it is not there."""
    if not file.exists():
        pairs = ((f"--{name.replace('_', '-')}", value) for name, value in options.items())
        words = [word for name, value in pairs for word in ([name] if value is True else [name, str(value)])]
        if status := monosem([*command.split(), *map(str, places), *words, "--out", str(file.parent)]):
            raise SystemExit(status)
    return file.parent


def train(run: Path, **options: object) -> Path:
    """A dictionary by ``monosem train``."""
    return made(run / "sae.safetensors", "train", **{"lr": 1e-3} | options)


def read(file: Path, command: str, *runs: Path, **options: object) -> dict[str, Any]:
    """The JSON that a command which reads ``runs`` writes."""
    made(file, command, *runs, **options)
    return json.loads(file.read_text())
