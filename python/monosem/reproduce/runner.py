"""Runs the stages in order; what is done stays done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from monosem.data import files
from monosem.reproduce.context import Context


@dataclass(frozen=True)
class Stage:
    """One step: ``work(context)`` gives plain data for JSON, written to ``evidence/<name>.json`` when it is whole."""

    name: str
    title: str
    work: Callable[[Context], dict[str, Any]]


def begin(context: Context) -> None:
    """Claim the folder for these settings.

    Raises:
        ValueError: the folder holds a reproduction with other settings.
    """
    path = context.folder / "reproduce.json"
    settings = json.loads(json.dumps(context.settings()))
    if path.is_file():
        held = json.loads(path.read_text(encoding="utf-8"))
        different = sorted(key for key in settings if held.get(key) != settings[key])
        if different:
            raise ValueError(
                f"out: {str(context.folder)!r} holds a reproduction with another {', '.join(different)}; "
                "give the same options to go on with it, or another --out"
            )
        return
    context.folder.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(settings, indent=1) + "\n")


def run(context: Context, stages: Sequence[Stage], say: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
    """Do every stage that is not done; {name: result}, in order, each with its ``seconds``.

    A stage that was interrupted starts again (training goes on from its last checkpoint by itself).
    """
    begin(context)
    results: dict[str, dict[str, Any]] = {}
    for number, stage in enumerate(stages, 1):
        path = context.evidence(stage.name)
        head = f"{number}/{len(stages)}  {stage.title}"
        if path.is_file():
            results[stage.name] = json.loads(path.read_text(encoding="utf-8"))
            say(f"{head}: done before ({results[stage.name]['seconds']:.0f} s)")
            continue
        say(head)
        start = time.perf_counter()
        result = stage.work(context)
        result = result | {"seconds": round(time.perf_counter() - start, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n")
        # What a stage returns is what the next start will read.
        results[stage.name] = json.loads(path.read_text(encoding="utf-8"))
    return results
