"""Stand-ins for the packages wandb, trackio and tensorboard, which keep what a run sends them."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import pytest


class Run:
    """A run of W&B or Trackio."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.rows, self.finished = options, [], False

    def log(self, metrics: dict[str, float], step: int) -> None:
        assert not self.finished
        self.rows.append((step, metrics))

    def finish(self) -> None:
        self.finished = True

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.rows]


class Writer:
    """TensorBoard's SummaryWriter."""

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.rows, self.text, self.closed = folder, purge_step, [], {}, False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.rows.append((step, name, value))

    def add_text(self, name: str, text: str, step: int) -> None:
        self.text[name] = (step, text)

    def close(self) -> None:
        self.closed = True


def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Put them in place of the packages; returns the runs of each, in the order in which they began."""
    made: dict[str, list[Any]] = {"wandb": [], "trackio": [], "tensorboard": []}

    def keep(name: str, run: Any) -> Any:
        made[name].append(run)
        return run

    for name in ("wandb", "trackio"):
        init = lambda package, /, **options: keep(package, Run(options))
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(init=functools.partial(init, name)))
    monkeypatch.setitem(sys.modules, "tensorboard", types.SimpleNamespace())
    writer = lambda folder, purge_step: keep("tensorboard", Writer(folder, purge_step))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=writer))
    return made
