"""Benchmarks made of monosem's own commands: what is in their folder of runs is not made again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import resumable

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


def train(run: Path, text: str, **options: object) -> Path:
    """A ReLU dictionary by ``monosem train``, if it is not there."""
    if not (run / "sae.safetensors").exists():
        _done("train", "--kind", "relu", "--text", text, "--lr", "1e-3", *_words(options), "--out", str(run))
    return run


def read(result: Path, command: str, *runs: Path, text: str, **options: object) -> dict[str, Any]:
    """``result``, which the ``command`` that reads ``runs`` writes, if it is not there."""
    if not result.exists():
        _done(command, *map(str, runs), "--text", text, *_words(options), "--out", str(result.parent))
    return json.loads(result.read_text())


def _words(options: dict[str, object]) -> list[str]:
    """As on the command line; True: an option without a value."""
    pairs = ((f"--{name.replace('_', '-')}", value) for name, value in options.items())
    return [word for name, value in pairs for word in ([name] if value is True else [name, str(value)])]


def _done(*words: str) -> None:
    if status := monosem(list(words)):
        raise SystemExit(status)
