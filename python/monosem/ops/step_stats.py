"""What a training step did: products, candidates, fallbacks, dense or sparse, and the milliseconds of its phases.

Encoders, autoencoders and the optimizer report to the recording that is open in their context; where none is,
a report costs a look-up. Nothing here waits for a device: counts that are there stay there, as 0-dim tensors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled
from torch.autograd.profiler import record_function

# Why a batch, or tokens of it, were not given to the product that this machine would choose.
FALLBACKS = {
    "overflow": "activations, weights or biases are not finite, or so large that fp32 may overflow",
    "short_rows": "the encoder's rows are nearly 0",
    "short_tokens": "many activations are nearly 0",
    "wide_bound": "a few columns are far larger than the rest, so that int8's error bound is wide",
    "too_wide": "rows have more columns than the product takes",
    "large_k": "k is too large for selection in one pass",
}
INT16 = ("wide_bound", "too_wide")  # those after which int16 takes the place of int8; fp32 after the others


@dataclass
class EncoderStats:
    """The encoder calls of one step.

    Attributes:
        tokens: by the product that gave the answer.
        candidates: features that the error bounds could not rule out, summed over tokens. On a GPU both this and
            ``rescored`` are counted where phases are timed, as they take two launches.
        rescored: of those, encoder rows read in fp32.
        redone: tokens whose candidates did not fit, so that they were computed again.
        fallbacks: tokens by the reason for a slower product, see ``FALLBACKS``.
    """

    tokens: dict[str, int] = field(default_factory=dict)
    candidates: int | Tensor = 0
    rescored: int | Tensor = 0
    redone: int | Tensor = 0
    fallbacks: dict[str, int] = field(default_factory=dict)

    def metrics(self) -> dict[str, float | Tensor]:
        """Shares of the tokens, and means per token."""
        total = sum(self.tokens.values())
        if not total:
            return {}
        shares: dict[str, float | Tensor] = {f"product_{product}": n / total for product, n in self.tokens.items()}
        shares |= {f"fallback_{reason}": n / total for reason, n in self.fallbacks.items()}
        shares["rows_redone"] = self.redone / total
        if isinstance(self.candidates, Tensor) or self.candidates:
            shares |= {"candidates": self.candidates / total, "rescored": self.rescored / total}
        return shares


@dataclass
class StepStats:
    """What one training step did.

    Attributes:
        encoder: the encoder of all features; ``aux_encoder``: that of AuxK, of dead features alone.
        dense: whether products with all features took the place of sparse rows; None where the kind has no choice.
        aux: how AuxK was computed: None (not at all), "dense" or "gathered".
        aux_rows, aux_size: dead features that it multiplied with, and how many of them a token may use.
        capacity_used: on a GPU, the share of the reserved entries (or rows of dead features) that was needed, 0-dim.
    """

    encoder: EncoderStats = field(default_factory=EncoderStats)
    aux_encoder: EncoderStats = field(default_factory=EncoderStats)
    dense: bool | None = None
    aux: str | None = None
    aux_rows: int = 0
    aux_size: int = 0
    capacity_used: Tensor | None = None

    def metrics(self) -> dict[str, float | Tensor]:
        """As numbers for a row of metrics: ``product_int8`` and so on, see docs/howto/slow_step.md."""
        row = self.encoder.metrics()
        if self.dense is not None:
            row["dense"] = float(self.dense)
        if self.aux is not None:
            row[f"aux_{self.aux}"] = 1.0
        if self.capacity_used is not None:
            row["capacity_used"] = self.capacity_used
        return row


class PhaseTimes:
    """Milliseconds per phase, summed over steps. On a GPU they are between events of its stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[str, Any, Any]] = []

    def mark(self) -> Any:
        """This moment; on a GPU the one at which it gets here."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def add(self, name: str, start: Any, end: Any) -> None:
        self._spans.append((name, start, end))

    def take(self) -> dict[str, float]:
        """The sums since the last ``take``; waits for a GPU to reach the last mark."""
        sums: dict[str, float] = {}
        if self._spans and self._device.type == "cuda":
            self._spans[-1][2].synchronize()
        for name, start, end in self._spans:
            ms = start.elapsed_time(end) if self._device.type == "cuda" else 1e3 * (end - start)
            sums[name] = sums.get(name, 0.0) + ms
        self._spans = []
        return sums


class _Recording:
    """An open recording: its statistics, and the phase that it is in."""

    def __init__(self, times: PhaseTimes | None) -> None:
        self.stats, self.times = StepStats(), times
        self.name, self._range, self._start = "", None, None

    def enter(self, name: str) -> None:
        """End the present phase and begin this one; "" for none."""
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        if self.times is not None:
            now = self.times.mark()
            if self.name:
                self.times.add(self.name, self._start, now)
            self._start = now
        self.name = name
        # A range costs microseconds also while nobody profiles; this question does not.
        if name and _profiler_enabled():
            self._range = record_function(f"monosem::{name}")
            self._range.__enter__()


_CURRENT: ContextVar[_Recording | None] = ContextVar("monosem_recording", default=None)


@contextmanager
def recording(times: PhaseTimes | None = None) -> Iterator[StepStats]:
    """Record what happens inside: into the recording that is open already, or else into a new one.

    Args:
        times: also measure the phases, into this.
    """
    if (outer := _CURRENT.get()) is not None:
        yield outer.stats
        return
    opened = _Recording(times)
    token = _CURRENT.set(opened)
    try:
        yield opened.stats
    finally:
        opened.enter("")
        _CURRENT.reset(token)


def phase(name: str) -> None:
    """From here to the next call, or to the end of the recording, the step is in this phase.

    PyTorch's profiler shows it as ``monosem::name``.
    """
    if (opened := _CURRENT.get()) is not None:
        opened.enter(name)


@contextmanager
def within(name: str) -> Iterator[None]:
    """A phase in the middle of another, which goes on afterwards."""
    if (opened := _CURRENT.get()) is None:
        yield
        return
    outer = opened.name
    opened.enter(name)
    try:
        yield
    finally:
        opened.enter(outer)


def current() -> StepStats | None:
    """The statistics of the open recording."""
    return None if (opened := _CURRENT.get()) is None else opened.stats


def encoder() -> EncoderStats | None:
    """Those of the encoder that is running."""
    if (opened := _CURRENT.get()) is None:
        return None
    return opened.stats.aux_encoder if opened.name == "aux" else opened.stats.encoder


def timed() -> bool:
    """Whether phases are timed: then counts may cost something."""
    return (opened := _CURRENT.get()) is not None and opened.times is not None


def encoded(product: str, tokens: int, candidates: int | Tensor = 0, rescored: int | Tensor = 0) -> None:
    """Count tokens that this product encoded."""
    if (stats := encoder()) is not None:
        stats.tokens[product] = stats.tokens.get(product, 0) + tokens
        stats.candidates, stats.rescored = stats.candidates + candidates, stats.rescored + rescored


def redone(tokens: int | Tensor) -> None:
    """Count tokens that are computed again because their candidates did not fit."""
    if (stats := encoder()) is not None:
        stats.redone = stats.redone + tokens


def fell_back(reason: str, tokens: int) -> None:
    """Count tokens that a slower product has to encode, for one of the reasons in ``FALLBACKS``."""
    if (stats := encoder()) is not None:
        stats.fallbacks[reason] = stats.fallbacks.get(reason, 0) + tokens


def ran(*, dense: bool) -> None:
    """Say how a kind that has the choice computed this step; after a batch that is done again, the last way counts."""
    if (stats := current()) is not None:
        stats.dense = dense


def aux(how: str, rows: int, size: int) -> None:
    """Say how AuxK was computed: "dense" or "gathered", with so many dead features, ``size`` of them per token."""
    if (stats := current()) is not None:
        stats.aux, stats.aux_rows, stats.aux_size = how, rows, size


def capacity(used: Tensor, reserved: int) -> None:
    """Count how much of the space reserved on a GPU was needed: above 1, some of it is left out for a step or two."""
    if (stats := current()) is not None:
        stats.capacity_used = used / max(1, reserved)
