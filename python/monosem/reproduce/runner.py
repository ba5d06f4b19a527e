"""Runs the stages in order; finished stages are not repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosem.data import fingerprint, sealed
from monosem.reproduce.context import Context


@dataclass(frozen=True)
class Stage:
    """One step: ``work(context)`` gives plain data for JSON, written to ``evidence/<name>.json`` when complete."""

    name: str
    title: str
    work: Callable[[Context], dict[str, Any]]


_WANTED = "what `monosem reproduce` writes"


def begin(context: Context, say: Callable[[str], None] = print) -> None:
    """Claim the folder for these settings.

    Raises:
        ValueError: the folder holds a reproduction with other settings, of another text or models, or is damaged.
    """
    path = context.folder / "reproduce.json"
    settings = json.loads(json.dumps(context.settings()))
    if path.is_file():
        held, _ = sealed.read(path, "out", f"{_WANTED} (choose another --out)")
        different = sorted(key for key in settings if key != "made_from" and held.get(key) != settings[key])
        if different:
            raise ValueError(
                f"out: {str(context.folder)!r} holds a reproduction with another {', '.join(different)}; "
                "give the same options to resume it, or another --out"
            )
        if "made_from" in held:
            _check_same(context, held["made_from"], f"out: {str(context.folder)!r} holds a reproduction")
        else:
            say(f"{path} was written before text and models had digests: whether they are the same is unknown")
        return
    context.folder.mkdir(parents=True, exist_ok=True)
    sealed.write(path, settings)


def run(
    context: Context,
    stages: Sequence[Stage],
    say: Callable[[str], None] = print,
    after: Callable[[dict[str, dict[str, Any]]], object] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Run every unfinished stage; {name: result}, in order, each with its ``seconds``.

    An interrupted stage starts again (training resumes from its last checkpoint). ``after`` is given the results so far
    whenever a stage has ended now.
    """
    begin(context, say)
    results = {stage.name: done for stage in stages if (done := _done(context, stage.name)) is not None}
    for number, stage in enumerate(stages, 1):
        path = context.evidence(stage.name)
        head = f"{number}/{len(stages)}  {stage.title}"
        if stage.name in results:
            say(f"{head}: done before ({results[stage.name]['seconds']:.0f} s)")
            continue
        say(head)
        start = time.perf_counter()
        result = stage.work(context)
        result |= {"seconds": round(time.perf_counter() - start, 1), "made_from": context.made_from}
        path.parent.mkdir(parents=True, exist_ok=True)
        sealed.write(path, result, indent=None, allow_nan=False)
        # As the next start will read it.
        results[stage.name] = read_evidence(path)
        after(results)
    return {stage.name: results[stage.name] for stage in stages}


def _done(context: Context, name: str) -> dict[str, Any] | None:
    """The result of a stage that ended before, of the same text and models."""
    path = context.evidence(name)
    if not path.is_file():
        return None
    result = read_evidence(path)
    _check_same(context, result.get("made_from", {}), f"evidence: {str(path)!r} is")
    return result


def _check_same(context: Context, held: dict[str, Any], what: str) -> None:
    """Raises ValueError where text or models have other content under their names now."""
    now = context.made_from
    for name in now.keys() & held.keys():
        same = now[name] == held[name] if name.startswith("text") else fingerprint.same_weights(held[name], now[name])
        if same is False:
            raise ValueError(
                f"{what} made from another {name} ({held[name]} then, {now[name]} now, under the same name); wanted "
                "the same content. Put it back, or choose another --out."
            )


def read_evidence(path: Path) -> dict[str, Any]:
    """Stored result of a stage.

    Raises:
        ValueError: the file is no such result, or was altered; names it.
    """
    result, _ = sealed.read(path, "evidence", f"{_WANTED} (remove it, and the stage is done again)")
    if not isinstance(result.get("seconds"), (int, float)):
        raise ValueError(
            f"evidence: {str(path)!r} lacks its seconds; wanted a complete result (remove it, and the stage "
            "is done again)"
        )
    return result
