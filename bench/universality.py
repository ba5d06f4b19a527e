"""Universality over sparsity: how well features of model A match those of model B, by λ.

For each λ a ReLU dictionary on model A and one on model B, begun with few active features, by ``monosem train``; then
``monosem compare`` of the two and ``monosem evaluate`` of the first on held-out text. What is in the folder of runs is
not made again. Prints a table and writes ``bench/results/universality.json``.

    python bench/universality.py --text MIX/train.jsonl --runs FOLDER [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import by_command
import resumable

from monosem.data import files

L1 = (1.5e-3, 1.7e-3, 2.4e-3, 3.6e-3)
SIZES = ("d_sae", "initial_l0", "steps", "compare_tokens", "evaluate_tokens")
FIGURES = ("tokens", "l0", "explained_variance", "ce_loss_recovered", "dead", "ultralow", "above_1_percent")


def measured(l1: float, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one λ, from the runs of both models."""
    sizes = {"kind": "relu", "d_sae": args.d_sae, "l1": l1, "set": f"initial_l0={args.initial_l0:g}"}
    length = {"text": args.text, "steps": args.steps, "log_every": min(50, args.steps)}
    a, b = (
        by_command.train(args.runs / f"{l1:g}-{model}", model=model, seed=seed, **sizes, **length)
        for seed, model in enumerate("AB")
    )
    compared, evaluated = (args.runs / f"{l1:g}-{name}" for name in ("compared", "evaluated"))
    found = by_command.read(compared / "universality.json", "compare", a, b, text=args.text, tokens=args.compare_tokens)
    figures = by_command.read(
        evaluated / "evaluation.json", "evaluate", a, text=args.text, tokens=args.evaluate_tokens, split="held_out"
    )
    matches = {c["name"]: {key: c[key] for key in ("compared", "quantiles", "backward")} for c in found["comparisons"]}
    return {
        "l1_coefficient": l1,
        "evaluation": {name: figures[name] for name in FIGURES},
        "tokens": found["tokens"],
        "least": found["least"],
        "matches": matches,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| λ | L0 | CE loss recovered | features compared | median correlation | neurons | random directions |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own, match = row["evaluation"], row["matches"]
        medians = [f"{match[name]['quantiles'][2]:.3f}" for name in ("features", "neurons", "random directions")]
        lines.append(
            f"| {row['l1_coefficient']:g} | {own['l0']:.1f} | {own['ce_loss_recovered']:.1%} "
            f"| {match['features']['compared']:,} | {' | '.join(medians)} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="sample", help="the committed runs read MIX/train.jsonl (default: shipped)")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the dictionaries and what is read of them")
    parser.add_argument("--l1", type=float, nargs="+", default=L1, help="coefficients λ (default: %(default)s)")
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--initial-l0", type=float, default=50.0)
    parser.add_argument("--steps", type=int, default=2500, help="of 4,096 activations each (default: %(default)s)")
    parser.add_argument("--compare-tokens", type=int, default=2_000_000)
    parser.add_argument("--evaluate-tokens", type=int, default=400_000)
    parser.add_argument("--out", type=Path, default=resumable.HERE / "results" / "universality.json")
    args = parser.parse_args(argv)
    made_with = by_command.made_with(args, SIZES)
    rows = [measured(l1, args) for l1 in args.l1]
    about = by_command.about("features of A against those of B, by λ", made_with)
    files.write_text(args.out, json.dumps(about | {"rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
