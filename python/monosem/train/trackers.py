"""Loggers of other packages, imported when they are made: Weights & Biases, Trackio and TensorBoard."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from monosem.data import files
from monosem.data.extras import needed
from monosem.nn.config import JsonDict
from monosem.train.loggers import Logger, NotStarted

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class _Tracker:
    """A package of W&B's interface: ``init`` gives a run with ``log(metrics, step)`` and ``finish()``.

    With a folder, the run's id and last step are kept in it. A resumed run then continues the same curve and logs no
    step twice: rows cannot be taken back, and those of a resumed run are the same. A run that begins at step 0 is a new
    curve.

    Args:
        folder: of the run; None: nothing is kept.
        options: of ``init``.
    """

    package: ClassVar[str] = ""
    advice: ClassVar[str] = ""

    def __init__(self, folder: str | Path | None = None, **options: Any) -> None:
        self._module = load(self.package)
        self._folder = None if folder is None else Path(folder)
        self._options, self._run = options, None
        self._id, self._last = "", 0

    def identified(self) -> JsonDict:
        """The options by which ``init`` continues the run ``self._id``, or begins it; "" is a new run."""
        raise NotImplementedError

    def start(self, step: int) -> None:
        if self._folder is not None:
            kept = _read(self._path) if step else {}
            self._id, self._last = kept.get("id", uuid.uuid4().hex[:8]), kept.get("step", 0)
            self._keep()
        try:
            self._run = self._module.init(**self.identified())
        except Exception as error:
            raise RuntimeError(f"{self.package}: its init failed ({error}). {self.advice}") from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is None:
            raise NotStarted(self)
        if step <= self._last:  # of an earlier attempt
            return
        self._run.log(dict(metrics), step=step)
        if self._folder is not None:
            self._last = step
            self._keep()

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    @property
    def _path(self) -> Path:
        return Path(self._folder or "") / f"{self.package}.json"

    def _keep(self) -> None:
        files.write_text(self._path, json.dumps({"id": self._id, "step": self._last}) + "\n")


def _read(path: Path) -> JsonDict:
    """The id and last step of an earlier part of the run; {} where they are not known."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {"id": str(kept["id"]), "step": int(kept["step"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


class WandbLogger(_Tracker):
    """Weights & Biases. ``options`` go to ``wandb.init``; its files go to ``folder``, unless ``WANDB_DIR`` is set."""

    package = "wandb"
    advice = "Run `wandb login` first, or set WANDB_MODE=offline and upload later with `wandb sync`."

    def identified(self) -> JsonDict:
        named = ({"id": self._id} if self._id else {}) | self._options
        if "id" in named:  # a run that is made longer changes the number of steps in its configuration
            named = {"resume": "allow", "allow_val_change": True} | named
        if self._folder is not None and "WANDB_DIR" not in os.environ:
            named = {"dir": str(self._folder)} | named
        return named


class TrackioLogger(_Tracker):
    """Trackio, which stores runs on this machine. ``options`` go to ``trackio.init``.

    Its runs are resumed by name, so the name of a run that is kept in a folder ends with the id.
    """

    package = "trackio"
    advice = "TRACKIO_DIR names the folder of its files."

    def identified(self) -> JsonDict:
        named = {"embed": False} | self._options
        if self._id:
            name = named.get("name")
            named |= {"name": f"{name}-{self._id}" if name else self._id, "resume": "allow"}
        return named


class TensorBoardLogger:
    """TensorBoard event files in ``folder``; a resumed run hides the events of steps that it takes again."""

    def __init__(self, folder: str | Path, config: JsonDict | None = None) -> None:
        load("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._make, self._folder, self._config = SummaryWriter, str(folder), config
        self._writer: SummaryWriter | None = None

    def start(self, step: int) -> None:
        self._writer = self._make(self._folder, purge_step=step + 1)
        if self._config is not None:  # four spaces make code of it in Markdown
            text = json.dumps(self._config, indent=2, ensure_ascii=False)
            self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._writer is None:
            raise NotStarted(self)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def load(package: str) -> Any:
    """The module of a tracker. Raises ImportError, with the extra that brings it, where it is not installed."""
    return needed(package, f"log: got {package!r}")


def trackers(names: Sequence[str], folder: str | Path, project: str, name: str, config: JsonDict) -> list[Logger]:
    """Loggers of a run by the names of their packages.

    Args:
        names: ``wandb``, ``trackio``, ``tensorboard``.
        folder: of the run: event files of TensorBoard go to ``folder/tensorboard``.
        project, name: in W&B and Trackio.
        config: the settings of the run.
    """
    options = {"project": project, "name": name, "config": config}
    made = {
        "wandb": lambda: WandbLogger(folder, **options),
        "trackio": lambda: TrackioLogger(folder, **options),
        "tensorboard": lambda: TensorBoardLogger(Path(folder) / "tensorboard", config),
    }
    return [made[n]() for n in dict.fromkeys(names)]
