"""A full training step (forward, backward, Adam, decoder constraint) of all libraries, interleaved in one run.

    python bench/train_step.py --workload laptop --kind jumprelu --out FILE.json

Each library runs in its own environment (``python bench/environments.py`` makes them) and process; they get the same
weights and batches from a file and step one after the other, round after round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peers
import torch

from monosem.bench import machine, show, step_comparison
from monosem.bench.workloads import VARIANTS, WORKLOADS, Workload
from monosem.data import files
from monosem.nn import KINDS


def measure(
    w: Workload, errors: dict[str, str] | None = None, who: Sequence[str] | None = None, say=lambda _: None, **how: Any
) -> dict[str, Any]:
    """``step_comparison.compare`` of all entrants, or of those in ``who``, with remarks on the result."""
    everyone = peers.entrants(w, errors=errors)
    if w.kind != "topk":
        everyone.insert(1, peers.OUR_TOPK)
    result = step_comparison.compare(w, [e for e in everyone if who is None or e.name in who], say=say, **how)
    remarks = [] if machine.multiplies_bf16() else [peers.NO_BF16]
    if who is not None:
        left_out = sorted({e.name for e in everyone} - set(who))
        size = 4e-9 * w.n * w.f
        remarks.append(
            f"{', '.join(left_out)}: left out, for they keep several arrays of {size:.1f} GB (N × F) per step"
        )
    return result | {"remarks": remarks}


def best_of_peers(result: dict[str, Any]) -> list[str]:
    """Summary of the table: our speed relative to the fastest other, in any precision and in fp32, and to our TopK."""
    ours = result["rows"][0]["name"]  # a row of every group
    measured = [row for row in result["rows"] if row.get("ratio")]
    lines = [f"{1 / row['ratio']:.2f} × {row['name']}" for row in measured if row["name"] == f"{ours} topk"]
    rows = [row for row in measured if row["name"].split()[0] != ours]
    for what, some in (("any precision", rows), ("fp32", [r for r in rows if r["precision"] == "default"])):
        if some:
            fastest = min(some, key=lambda row: row["ratio"])
            lines.append(f"fastest other in {what}: {fastest['name']}, {fastest['ratio']:.2f} × monosem")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="laptop")
    parser.add_argument("--kind", choices=[*KINDS, *VARIANTS], default="topk")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=300.0, help="no further round after this time")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    w = WORKLOADS[args.workload].of(args.kind)
    result = measure(w, say=lambda s: print(s, flush=True), rounds=args.rounds, budget=args.seconds)
    print(show.heading(result), show.text(show.step_table(result)), *best_of_peers(result), sep="\n")
    if args.out:
        files.write_text(args.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
