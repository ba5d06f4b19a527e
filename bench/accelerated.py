"""Training loops of other libraries, on their own autoencoders and on the same ones after ``ms.accelerate``.

    python bench/accelerated.py [--workload laptop] [--only sae_lens ...] [--out bench/results/accelerated.json]

Each runs in its library's own environment (``python bench/environments.py`` makes them), which reads monosem from this
checkout. Plain and accelerated get the same weights and batches and step one after the other, with our own trainer in
the same rounds. Then both are evaluated by the library's own methods on a held-out batch: they must have learned the
same.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import peers

import monosem
from monosem.bench import machine, show, step_comparison
from monosem.bench.rounds import MONOSEM, Entrant
from monosem.bench.workloads import VARIANTS, WORKLOADS
from monosem.data import files

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "sae_lens": ("topk", "batch_topk", "matryoshka", "relu", "relu_free"),
    "dictionary_learning": ("topk", "batch_topk", "matryoshka", "relu", "relu_free", "gated"),
    "sparsify": ("topk",),
}


def pair(library: str, kind: str) -> list[Entrant]:
    """The library's own autoencoder in its default form, and the accelerated one."""
    plain = peers.of_library(library, VARIANTS.get(kind, {"kind": kind})["kind"])[0]
    here = {"PYTHONPATH": str(Path(monosem.__file__).parent.parent)}
    return [plain, replace(plain, variant="accelerated", env=here)]


def measure(library: str, kind: str, workload: str, rounds: int, budget: float) -> dict[str, Any]:
    w = WORKLOADS[workload].of(kind)
    result = step_comparison.compare(w, [MONOSEM, *pair(library, kind)], rounds=rounds, budget=budget, same_steps=True)
    _, plain, fast = result["rows"]
    result |= {"what": "accelerated", "library": library, "kind": kind}
    if plain["error"] or fast["error"]:
        return result
    per_round = zip(*((sum(r) for r in row["times_ms"]) for row in (plain, fast)), strict=True)
    return result | {
        "speedup": round(statistics.median(before / after for before, after in per_round), 2),
        "held_out": {name: [plain[name], fast[name]] for name in ("mse", "l0", "objective")},
        "steps": plain["steps"],
    }


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| library | kind | its step, ms | accelerated, ms | faster | monosem's own trainer, ms | "
        "held-out MSE: its own → accelerated |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        ours, plain, fast = r["rows"]
        name = f"| {plain['name'].split()[0]} | {r['kind']} "
        if "speedup" not in r:
            lines.append(f"{name}| {plain['error'] or fast['error']} | | | | |")
            continue
        mse = " → ".join(f"{value:.6f}" for value in r["held_out"]["mse"])
        lines.append(
            f"{name}| {plain['ms']:,.0f} | {fast['ms']:,.0f} | {r['speedup']:.1f} × | {ours['ms']:,.0f} | {mse} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="laptop")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=[*KINDS], metavar="LIBRARY")
    parser.add_argument("--kinds", nargs="+", choices=[*peers.KINDS, *VARIANTS], metavar="KIND", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=120.0, help="no further round after this time")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "accelerated.json")
    args = parser.parse_args()
    results = []
    for library in args.only:
        for kind in KINDS[library]:
            if args.kinds and kind not in args.kinds:
                continue
            print(f"{library}, {kind}", flush=True)
            results.append(measure(library, kind, args.workload, args.rounds, args.seconds))
            print(show.text(show.step_table(results[-1])), flush=True)
    about = {"machine": machine.describe() | {"commit": machine.commit(ROOT)}, "workload": args.workload}
    files.write_text(args.out, json.dumps(about | {"results": results}, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
