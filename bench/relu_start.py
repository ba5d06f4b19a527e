"""The beginning of a ReLU dictionary with biases of 0, and with few active features (``initial_l0``).

The first steps of 16,384 features on the activations of the shipped model A for the shipped text: time, L0 and error
after each 20 steps. Prints a table and writes ``bench/results/relu_start.json``.

    python bench/relu_start.py [--quick]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import resumable
from resumable import Scale

import monosem as ms
from monosem.analysis.inputs import load_rows

HOOK, L1, EVERY = "blocks.0.mlp.hook_post", 0.0015, 20
STARTS = (None, 50.0, 300.0)
SCALE = Scale(d_sae=16_384, activations=240 * 2048, batch_size=2048, held_out=0, dead_after=1_000_000)
QUICK = replace(SCALE, d_sae=512, activations=60 * 128, batch_size=128)


class Curve:
    """A logger that keeps the time since the start, L0, error and share of dense steps."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []

    def start(self, step: int) -> None:
        self._began = time.perf_counter()

    def log(self, step: int, row: dict[str, float]) -> None:
        seconds = round(time.perf_counter() - self._began, 2)
        self.points.append({"step": step, "seconds": seconds} | {name: row[name] for name in ("l0", "mse", "dense")})

    def close(self) -> None:
        pass


def beginning(start: float | None, model, tokens, scale: Scale) -> list[dict[str, float]]:
    """The points of the curve of one dictionary."""
    sae = ms.ReLUSAE(model.width(HOOK), scale.d_sae, L1, initial_l0=start, seed=0)
    curve, steps = Curve(), scale.activations // scale.batch_size
    config = ms.TrainConfig(lr=scale.lr, batch_size=scale.batch_size, steps=steps, log_every=EVERY)
    stream = ms.ActivationStream(model, HOOK, tokens, scale.batch_size, seed=0, epochs=None)
    ms.Trainer(sae, config, progress=False, loggers=[curve]).fit(stream)
    return curve.points


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| active at the start | step | seconds | L0 | error |", "|---|---|---|---|---|"]
    for row in rows:
        start = "half (biases of 0)" if row["initial_l0"] is None else f"{row['initial_l0']:g}"
        for point in row["points"]:
            found = f"{point['seconds']:.1f} | {point['l0']:.1f} | {point['mse']:.4f}"
            lines.append(f"| {start} | {point['step']} | {found} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    resumable.add_arguments(parser, "relu_start.json", QUICK)
    args = parser.parse_args(argv)
    out = resumable.out_of(parser, args)
    scale, model = QUICK if args.quick else SCALE, ms.load_model("A")
    done = resumable.done(out, scale, args.text)
    text = load_rows(model, args.text, "train")
    for start in STARTS:
        if not any(row["initial_l0"] == start for row in done):
            points = beginning(start, model, text.tokens, scale)
            done.append({"initial_l0": start, "commit": resumable.commit(), "points": points})
            about = {
                "what": "the beginning of ReLU dictionaries",
                "model": "A",
                "hook_name": HOOK,
                "l1_coefficient": L1,
            }
            resumable.write(out, about, scale, args.text, done)
    print(table(done))


if __name__ == "__main__":
    main()
