"""Loggers of metrics: JSON lines by default; W&B and TensorBoard when they are installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

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
            raise _NotStarted(self)
        self._out.write(json.dumps({"step": step, **metrics}) + "\n")
        self._out.flush()

    def close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None


class _NotStarted(RuntimeError):
    def __init__(self, logger: object) -> None:
        super().__init__(f"log: {type(logger).__name__} was not started; wanted start(step) before log(...)")


def _step_of(line: str) -> float:
    """The step of a row; infinity for a line that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


class WandbLogger:
    """Weights & Biases. ``options`` go to ``wandb.init``; give ``id`` and a resumed run continues the same curve."""

    def __init__(self, **options: object) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError("WandbLogger: the package wandb is not installed; pip install wandb") from error
        self._wandb: Any = wandb
        self._options, self._run = options, None

    def start(self, step: int) -> None:
        resume = {"resume": "allow"} if "id" in self._options else {}
        self._run = self._wandb.init(**resume | self._options)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is None:
            raise _NotStarted(self)
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


class TensorBoardLogger:
    """TensorBoard event files in ``folder``; a resumed run hides the events of steps that it takes again."""

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoardLogger: the package tensorboard is not installed; pip install tensorboard"
            ) from error
        self._make, self._folder = SummaryWriter, str(folder)
        self._writer: SummaryWriter | None = None

    def start(self, step: int) -> None:
        self._writer = self._make(self._folder, purge_step=step + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._writer is None:
            raise _NotStarted(self)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
