"""A run's own training step, phase by phase: milliseconds, the floor of this machine, and statistics of the step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from monosem.bench import floor, machine
from monosem.bench.floor import Rates
from monosem.train.learner import Learner
from monosem.train.notices import unusual, words
from monosem.train.report import Meter

WARMUP = 3  # steps
OTHER = "other"  # Python between the phases
# In the order of a table. docs/howto/slow_step.md has a line on each.
PHASES = {
    "centre": "x minus the decoder's bias (ReLU; otherwise part of encode)",
    "encode": "the encoder's product, selection, and rescoring in fp32",
    "decode_loss": "rows of the active features: reconstruction, loss, slopes",
    "dense_products": "products with all features: activations and reconstruction",
    "forward": "the loss of an architecture whose gradients are autograd's",
    "backward": "autograd",
    "statistics": "L0, firing features, means",
    "aux": "AuxK with the dead features",
    "sort": "entries by feature",
    "row_gradients": "gradients of both matrices multiplied out, for clipping",
    "dense_gradients": "the same by products with all features",
    "clip": "norm of the gradients, and their scaling",
    "encoder_sweep": "gradient rows of the encoder and Adam",
    "decoder_sweep": "gradient rows of the decoder, projection, Adam and unit norm",
    "dense_sweep": "both sweeps by products with all features",
    "adam": "Adam of the parameters that have no sweep of their own",
    "dead": "counters of the tokens since each feature fired",
    "ema": "averages of the weights",
    "resample": "dead features that start anew",
}
MOMENTS = {"fp32": 4, "bf16": 2, "int8": 1}  # bytes of a moment


@dataclass(frozen=True)
class Shape:
    """The work of a step that its floors depend on.

    Attributes:
        n, d, f: tokens, width, features; ``l0``: active features per token.
        dense: share of steps by products with all features instead of sparse rows.
        rescored: encoder rows per token that are read in fp32.
        aux: how AuxK is computed, with ``aux_rows`` dead features, ``aux_size`` of them per token, in a share of steps.
        moment_bytes: of a weight's moment; ``lazy``: rows without a gradient are not read.
    """

    n: int
    d: int
    f: int
    l0: float
    dense: float = 0.0
    rescored: float = 0.0
    aux: str | None = None
    aux_rows: int = 0
    aux_size: int = 0
    aux_share: float = 1.0
    moment_bytes: int = 4
    lazy: bool = False


def floors(s: Shape, rates: Rates) -> dict[str, float]:
    """The floor in milliseconds of each phase that has one: the longer of its products and its bytes.

    Those of the encoder's product and of the rows that it rescores add up, as in ``floor.step``. A gathered row counts
    each time it is read. Dense products are fp32.
    """
    row, matrix, product = 4 * s.d, 4 * s.f * s.d, 2 * s.n * s.d * s.f
    entries = s.n * s.l0
    aux_entries = s.aux_share * {"gathered": s.n * s.aux_size, "dense": s.aux_rows}.get(s.aux or "", 0)
    adam = 0 if s.lazy else s.f * s.d * (8 + 4 * s.moment_bytes)
    fp32 = rates.measured.get("fp32", rates.flops_per_second)

    def moved(count: float) -> float:
        return count / rates.bytes_per_second

    sweep = moved((entries + aux_entries) * row + adam)
    sparse = {
        "encode": product / rates.flops_per_second + moved(s.n * s.rescored * row),
        "decode_loss": moved(entries * row + 2 * s.n * row),
        "sort": moved(16 * (entries + aux_entries) + 8 * (s.n + s.f)),
        "encoder_sweep": sweep,
        "decoder_sweep": sweep,
        "row_gradients": moved(2 * (entries + aux_entries) * row + 2 * matrix),
    }
    dense = {
        "dense_products": 2 * product / fp32,
        "dense_sweep": max(4 * product / fp32, moved(2 * adam)),
        "dense_gradients": max(4 * product / fp32, moved(2 * matrix)),
    }
    seconds = {name: (1 - s.dense) * value for name, value in sparse.items()}
    seconds |= {name: s.dense * value for name, value in dense.items()}
    seconds |= {"clip": moved(6 * matrix), "ema": moved(6 * matrix)}
    aux_product = 2 * s.n * s.aux_rows * s.d
    if s.aux == "dense":
        seconds["aux"] = s.aux_share * 5 * aux_product / fp32
    elif s.aux == "gathered":
        seconds["aux"] = s.aux_share * (aux_product / rates.flops_per_second + moved(s.n * s.aux_size * row))
    return {name: 1e3 * value for name, value in seconds.items() if value}


def measure(
    learner: Learner,
    batches: Iterator[Tensor],
    step: int,
    steps: int,
    *,
    rates: Rates | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Take some steps with the run's own settings and activations; returns the measurements as plain data.

    Figures are means over the steps without the fastest and the slowest tenth, so that phases add up to the step.

    Args:
        learner: with ``time_phases``.
        batches: of activations; that they end early is no error.
        step: whose learning rate and penalty all steps have.
        steps: to be measured, after ``WARMUP`` others.
        rates: of this machine; measured, unless given, on a CPU. There are no floors on a GPU.
    """
    began = time.time()
    about, device = machine.describe(), learner.sae.W_dec.device
    measured: list[_Step] = []
    for number in range(WARMUP + steps):
        say(f"step {number + 1}/{WARMUP + steps}")
        asked = time.perf_counter()
        x = next(batches, None)
        if x is None:
            break
        begin = time.perf_counter()
        row = learner.step(x, step)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        end = time.perf_counter()
        measured.append(
            _Step(
                ms=1e3 * (end - begin),
                data_ms=1e3 * (begin - asked),
                tokens=len(x),
                phases=learner.take_times(),
                metrics=row,
            )
        )
    if len(measured) <= WARMUP:
        raise ValueError(
            f"steps: the activations ended after {len(measured)} batches; wanted more than the {WARMUP} that warm up. "
            "Give more of them, or a smaller --batch-size."
        )
    data_ms = sum(s.data_ms for s in measured) / len(measured)  # of all: a buffer is filled in the first
    by_time = sorted(measured[WARMUP:], key=lambda s: s.ms)
    dropped = len(by_time) // 10
    kept = by_time[dropped : len(by_time) - dropped]
    if rates is None and device.type == "cpu":
        say("measuring the machine")
        rates = floor.measure(learner.sae.cfg.d_in)
    return {
        "what": "profile",
        "kind": learner.sae.cfg.kind,
        "sae": asdict(learner.sae.cfg),
        "steps": len(kept),
        "machine": about,
        "data_ms": data_ms,
        **_summary(learner, kept, rates),
        "seconds": round(time.time() - began, 1),
        "made": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
    }


@dataclass(frozen=True)
class _Step:
    """One measured step: milliseconds in all, of the wait for its batch, and of its phases."""

    ms: float
    data_ms: float
    tokens: int
    phases: dict[str, float]
    metrics: dict[str, Any]


def _summary(learner: Learner, kept: list[_Step], rates: Rates | None) -> dict[str, Any]:
    meter, phases = Meter(), {}
    for s in kept:
        meter.add(s.metrics)
        for name, ms in s.phases.items():
            phases[name] = phases.get(name, 0.0) + ms / len(kept)
    stats, total = meter.take(), sum(s.ms for s in kept) / len(kept)
    phases[OTHER] = max(0.0, total - sum(phases.values()))
    cfg, how = learner.sae.cfg, learner.stats
    shape = Shape(
        n=round(sum(s.tokens for s in kept) / len(kept)),
        d=cfg.d_in,
        f=cfg.d_sae,
        l0=stats["l0"],
        dense=stats.get("dense", 0.0),
        rescored=stats.get("rescored", 0.0),
        aux=how.aux,
        aux_rows=how.aux_rows,
        aux_size=how.aux_size,
        aux_share=stats.get(f"aux_{how.aux}", 0.0),
        moment_bytes=MOMENTS[learner.cfg.adam_state],
        lazy=learner.cfg.lazy_rows,
    )
    floors_ms = floors(shape, rates) if rates is not None else {}
    names = [name for name in PHASES if name in phases] + [name for name in phases if name not in PHASES]
    rows = [_phase(name, phases[name], total, floors_ms.get(name)) for name in names]
    whole = sum(row["floor_ms"] or 0.0 for row in rows) if rates is not None else None
    return {
        "shape": asdict(shape),
        "phases": rows,
        "step": _phase("step", total, total, whole),
        "floor": asdict(rates) if rates is not None else None,
        "stats": stats,
        "words": words(stats),
        "notices": [notice.sentence for notice in unusual(stats)],
    }


def _phase(name: str, ms: float, total: float, floor_ms: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "ms": ms,
        "share": ms / total,
        "floor_ms": floor_ms,
        "to_floor": ms / floor_ms if floor_ms else None,
    }
