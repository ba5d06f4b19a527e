"""The rows of metrics of a run (means over steps), and its progress bar in tokens."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from monosem.nn.config import JsonDict
from monosem.ops.shard import WHOLE, Shard
from monosem.train.loggers import Logger, Loggers
from monosem.train.notices import unusual


class Meter:
    """Sums of metrics, tensors on their device; only ``take`` and ``finite`` synchronise with it.

    Args:
        shard: whose parts of the tensors are counted. Processes exchange the sums where they are read.
    """

    def __init__(self, shard: Shard = WHOLE) -> None:
        self._shard = shard
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._plain: dict[str, float] = {}
        self.count = 0

    def add(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Count one step: 0-dim tensors of one device, and plain numbers."""
        tensors = {name: value for name, value in metrics.items() if isinstance(value, Tensor)}
        row = torch.stack([value.detach().double() for value in tensors.values()])
        if self._sums is None:
            self._sums, self._names = row, list(tensors)
        elif self._names == list(tensors):
            self._sums = self._sums + row
        else:  # a step may have metrics that others do not have: a missing one counts as 0
            sums = dict(zip(self._names, self._sums.unbind(), strict=True))
            for name, value in zip(tensors, row.unbind(), strict=True):
                sums[name] = sums[name] + value if name in sums else value
            self._sums, self._names = torch.stack(list(sums.values())), list(sums)
        for name, value in metrics.items():
            if not isinstance(value, Tensor):
                self._plain[name] = self._plain.get(name, 0.0) + value
        self.count += 1

    def _total(self, own: Tensor) -> Tensor:
        return self._shard.sum_all(own)

    def totals(self, metrics: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
        """Metrics of one step, of which these are the parts of this shard."""
        if self._shard.is_whole:
            return dict(metrics)
        tensors = {name: value for name, value in metrics.items() if isinstance(value, Tensor)}
        row = self._total(torch.stack([value.detach().double() for value in tensors.values()]))
        totals = {name: t.to(own) for t, (name, own) in zip(row.unbind(), tensors.items(), strict=True)}
        return {**metrics, **totals}

    def finite(self) -> bool:
        """Whether every sum so far is a number: False after a step that diverged."""
        return self._sums is None or bool(torch.isfinite(self._total(self._sums)).all())

    def take(self) -> dict[str, float]:
        """The means since the last ``take``."""
        tensors = [] if self._sums is None else self._total(self._sums).tolist()
        sums = dict(zip(self._names, tensors, strict=True)) | self._plain
        means = {name: value / self.count for name, value in sums.items()}
        self._sums, self._plain, self.count = None, {}, 0
        return means

    def state_dict(self) -> JsonDict:
        """JSON; a Python float comes back from it bit for bit."""
        total = None if self._sums is None else self._total(self._sums)
        if total is not None:  # a run that resumes adds to what is saved here: so does this one, in the same order
            self._sums = self._shard.once(total)
        sums = None if total is None else total.tolist()
        return {"names": self._names, "sums": sums, "plain": self._plain, "count": self.count}

    def load_state_dict(self, state: JsonDict, device: torch.device) -> None:
        sums = state["sums"]
        saved = None if sums is None else torch.tensor(sums, dtype=torch.float64, device=device)
        self._sums = None if saved is None else self._shard.once(saved)
        self._names, self._plain, self.count = state["names"], dict(state["plain"]), state["count"]


class Report:
    """Progress bar and loggers of one call of ``fit``, from ``step`` on.

    Where a row of metrics shows that steps are slower than they might be, the last field of the bar says so, and a
    warning once per call of ``fit`` says what to do.
    """

    def __init__(
        self, loggers: Sequence[Logger], *, step: int, tokens: int, total: int, seconds: float, bar: bool
    ) -> None:
        self._loggers = Loggers(loggers)
        self._loggers.start(step)
        self._bar = tqdm(
            total=total,
            initial=tokens,
            unit="tok",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5,
            disable=not bar,
        )
        self._since, self._tokens_then = time.monotonic(), tokens
        self._begin = self._since - seconds
        self._warned: set[str] = set()

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()
        self._loggers.close()

    @property
    def seconds(self) -> float:
        """Time spent in ``fit`` by this run, resumed parts included."""
        return time.monotonic() - self._begin

    def advance(self, tokens: int) -> None:
        self._bar.update(tokens)

    def row(self, step: int, tokens: int, rows: list[dict[str, float]]) -> None:
        """Log one row: metrics of one autoencoder, or of several under the keys ``0/loss``, ``1/loss``, …"""
        now = time.monotonic()
        rate = (tokens - self._tokens_then) / max(now - self._since, 1e-9)
        self._since, self._tokens_then = now, tokens
        flat = (
            rows[0] if len(rows) == 1 else {f"{i}/{name}": v for i, row in enumerate(rows) for name, v in row.items()}
        )
        timing = {"tokens_per_second": round(rate, 1), "seconds": round(self.seconds, 2)}
        self._loggers.log(step, {"tokens": tokens} | flat | timing)
        forms = {"loss": "{:.4g}", "l0": "{:.1f}", "dead": "{:.1%}"}
        shown = {name: "|".join(form.format(row[name]) for row in rows) for name, form in forms.items()}
        self._bar.set_postfix(shown | self._unusual(rows), refresh=False)

    def _unusual(self, rows: list[dict[str, float]]) -> dict[str, str]:
        notices = [notice for row in rows for notice in unusual(row)]
        for notice in notices:
            if notice.kind not in self._warned:
                self._warned.add(notice.kind)
                # Not `warn`, which shows a warning of the same line only once per process, also in another run.
                warnings.warn_explicit(notice.sentence, RuntimeWarning, __file__, 0, registry={})
        return {"slow": ", ".join(dict.fromkeys(notice.short for notice in notices))} if notices else {}
