"""How ``gpu.py`` keeps its figures: on disk as they come, each once, with what they were measured on."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
NO_TIME = "no time was left"
SAME = ("gpu", "commit", "sources", "torch", "triton")  # equal for all figures of one folder
MARKED = ("step", "kernels", "ops")  # sections whose rows have the outcome of their backend's tests


class Run:
    """The folder, the remaining time, and the results so far.

    A section is one JSON file, replaced atomically. One of another card, commit or build is set aside, not overwritten.

    Args:
        minutes: from ``began`` (now, if that is not given).
        state: of the tests that stand for a row's backend, by section; None where there is nothing to say.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        about: dict[str, Any],
        *,
        now: Callable[[], float] = time.monotonic,
        began: float | None = None,
        state: Callable[["Run", str, Row], str | None] = lambda *_: None,
    ) -> None:
        self.folder, self.about, self.now, self.state = folder, about, now, state
        self.end = (now() if began is None else began) + 60 * minutes
        self.results: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - self.now()

    def keep(self, section: str, result: dict[str, Any]) -> None:
        """Write a section's state atomically."""
        if section not in self.results:
            self.stored(section)
        for row in result.get("rows", ()) if self.about.get("rehearsal") else ():
            row["rehearsal"] = True
        if section in MARKED:
            for row in result["rows"]:
                if (tests_state := self.state(self, section, row)) is not None:
                    row["tests"] = tests_state
        self.results[section] = {"about": self.about} | result
        self._replace(self.folder / f"{section}.json", json.dumps(self.results[section], indent=1) + "\n")

    def mark(self) -> None:
        """Update the outcome of the tests in all stored rows."""
        for section in MARKED:
            if stored := self.stored(section):
                self.keep(section, {name: value for name, value in stored.items() if name != "about"})

    def stored(self, section: str) -> dict[str, Any] | None:
        """The section, of this call or of an earlier one with this folder on the same GPU, commit and build."""
        path = self.folder / f"{section}.json"
        if section not in self.results and path.exists():
            earlier = json.loads(path.read_text())
            if all(earlier["about"].get(key) == self.about.get(key) for key in SAME):
                self.results[section] = earlier
            else:
                number = 1
                while (aside := self.folder / f"{section}.earlier-{number}.json").exists():
                    number += 1
                path.rename(aside)
        return self.results.get(section)

    def rows(self, section: str, shape: str) -> list[Row]:
        return [row for row in (self.stored(section) or {}).get("rows", []) if row["shape"] == shape]

    def rates(self, shape: str) -> dict[str, Any] | None:
        """Rates that the floor section measured for this shape."""
        for row in self.rows("floor", shape):
            if "error" not in row:
                return {name: row[name] for name in ("flops_per_second", "bytes_per_second", "product")}
        return None

    def write(self, name: str, text: str) -> None:
        self._replace(self.folder / name, text)

    def _replace(self, path: Path, text: str) -> None:
        """The folder may be copied at any time: what is being written is not in it, where that can be."""
        near = Path(tempfile.gettempdir())
        if near.stat().st_dev != self.folder.stat().st_dev:
            near = self.folder
        handle, part = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".part", dir=near)
        try:
            with os.fdopen(handle, "w") as out:
                out.write(text)
            os.chmod(part, 0o644)
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise


def task_name(about: dict[str, Any]) -> str:
    """Name shared by a task and its rows within a section."""
    options = about.get("options") or {}
    return " ".join([about["shape"], about.get("backend", ""), *(f"{k}={v}" for k, v in sorted(options.items()))])


class Section:
    """The rows of one section while it is measured, and which units of which tasks are done: those are not repeated.

    A unit is what is lost together: an operation, or one way to time a step. What failed, a later call tries again.
    """

    def __init__(self, run: Run, name: str, again: bool = False) -> None:
        self.run, self.name = run, name
        stored = {} if again else run.stored(name) or {}
        self.rows: list[Row] = stored.get("rows", [])
        self.done: dict[str, list[str]] = stored.get("done", {})
        self.complete: list[str] = stored.get("complete", [])

    def begin(self, task: dict[str, Any]) -> dict[str, Any] | None:
        """The task with the units that need not be done; None when that is all of them."""
        name = task_name(task)
        if name in self.complete:
            return None
        return task | {"skip": list(self.done.get(name, ()))}

    def forget_errors(self, task: dict[str, Any]) -> None:
        """Of earlier calls: the task is begun once more."""
        mine = task_name(task)
        self.rows = [row for row in self.rows if task_name(row) != mine or "error" not in row]
        for row in self.rows:
            if task_name(row) == mine:
                row.pop("lost", None)

    def add(self, row: Row) -> None:
        """A row, or what more there is to say of it."""
        for old in self.rows:
            if task_name(old) == task_name(row) and old.get("name") == row.get("name"):
                old.pop("error", None)  # missing figures are still listed under "lost"
                old.update(row)
                return
        self.rows.append(row)

    def end(self, task: dict[str, Any], unit: str) -> None:
        self.done.setdefault(task_name(task), []).append(unit)

    def finish(self, task: dict[str, Any]) -> None:
        """All its units were tried; complete, and not repeated by a later call, when none of them failed."""
        mine = [row for row in self.rows if task_name(row) == task_name(task)]
        if mine and not any("error" in row or "lost" in row for row in mine):
            self.complete.append(task_name(task))

    def lose(self, task: dict[str, Any], unit: str, why: str) -> None:
        """A unit has no figure: beside the figures of its row where there are some, as a row of its own otherwise."""
        about = {name: task[name] for name in ("section", "shape", "backend", "options") if task.get(name)}
        mine = [row for row in self.rows if task_name(row) == task_name(task)]
        if self.name == "ops":
            self.add(about | {"name": unit, "error": why})
        elif mine:
            mine[0].setdefault("lost", {})[unit] = why
        else:
            self.add(about | {"error": why, "lost": {unit: why}})

    def keep(self) -> None:
        self.run.keep(self.name, {"rows": self.rows, "done": self.done, "complete": self.complete})


def sections(run: Run, names: Sequence[str], again: bool = False) -> dict[str, Section]:
    return {name: Section(run, name, again) for name in dict.fromkeys(names)}
