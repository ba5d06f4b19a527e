"""Loggers of metrics, and the one that every run has: JSON lines. Those of other packages: ``train/trackers.py``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from monosem.data import files


class Logger(Protocol):
    """Anything with these three methods can follow a run.

    An exception of ``start`` ends ``fit`` before its first step. One of ``log`` or ``close`` becomes a warning, and
    this logger is left out of the rest of the run; to stop training from a logger, raise KeyboardInterrupt.
    """

    def start(self, step: int) -> None:
        """The run begins or goes on after ``step`` steps; rows of later steps belong to an attempt that was lost."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row: the means since the last row (``loss``, ``mse``, ``sparsity``, ``aux``, ``l0``, ``dead``, …, and how
        steps were computed: docs/howto/slow_step.md)."""

    def close(self) -> None:
        """The run has ended or stopped."""


class JsonlLogger:
    """One JSON object per line, flushed as it is logged; after a resume no step is in the file twice."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._out: TextIO | None = None

    def start(self, step: int) -> None:
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            earlier = "".join(line + "\n" for line in text.split("\n") if _step_of(line) <= step)
            if earlier != text:
                files.write_text(self.path, earlier)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._out = self.path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._out is None:
            raise NotStarted(self)
        self._out.write(json.dumps({"step": step, **metrics}) + "\n")
        self._out.flush()

    def close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None


class Loggers:
    """The loggers of one run, called together.

    One that raises when the run starts ends the run, which has lost nothing yet. One that raises later is left out of
    the rest of the run, with a warning: the weights are worth more than their curve.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = list(loggers)

    def start(self, step: int) -> None:
        """Start all, or none: where one raises, those before it are closed again."""
        asked, self._loggers = self._loggers, []
        try:
            for logger in asked:
                logger.start(step)
                self._loggers.append(logger)
        except BaseException:
            self.close()
            raise

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._call("log", step, metrics)

    def close(self) -> None:
        self._call("close")

    def _call(self, method: str, *args: object) -> None:
        for logger in list(self._loggers):
            try:
                getattr(logger, method)(*args)
            except Exception as error:
                self._loggers.remove(logger)
                warnings.warn(
                    f"loggers: {type(logger).__name__}.{method} raised {type(error).__name__}: {error}. Training "
                    "continues without this logger; fix it and call again after the run, or stop with Ctrl-C and "
                    "resume.",
                    RuntimeWarning,
                    stacklevel=5,
                )


class NotStarted(RuntimeError):
    def __init__(self, logger: object) -> None:
        super().__init__(f"log: {type(logger).__name__} was not started; wanted start(step) before log(...)")


def _step_of(line: str) -> float:
    """The step of a row; infinity for a line that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
