"""How features split over the paper's widths: ReLU dictionaries alike but for their width, and ``monosem split``.

For each width a dictionary on model A by ``monosem train``: one λ, as many activations, the same seed, begun with few
active features. Then ``monosem evaluate`` of each on held-out text, and ``monosem split`` from the feature of the
narrowest that follows base64 best. What is in the folder of runs is not made again. Prints a table and writes
``bench/results/splitting.json``.

    python bench/splitting.py --text MIX/train.jsonl --runs FOLDER [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import by_command
import resumable

from monosem.data import files

SIZES = ("widths", "l1", "initial_l0", "steps", "label", "split_tokens", "evaluate_tokens")
FIGURES = ("tokens", "l0", "explained_variance", "ce_loss_recovered", "dead", "ultralow")
# Of a feature: the tokens that it fires on, how many of them are of the label and how many of the label's it fires on.
OF_FEATURE = ("feature", "tokens", "precision", "recall", "correlation", "source")
WORDS = 5  # most of what a feature fires on that a result keeps


def measured(args: argparse.Namespace) -> dict[str, Any]:
    runs, evaluations = [], []
    for d_sae in args.widths:
        # A feature in ten at most, as ``initial_l0`` wants.
        start = f"initial_l0={min(args.initial_l0, d_sae // 10):g}"
        sizes = {"kind": "relu", "d_sae": d_sae, "l1": args.l1, "set": start, "lazy_rows": True}
        length = {"text": args.text, "steps": args.steps, "log_every": min(25, args.steps)}
        run = by_command.train(args.runs / f"{d_sae}", model="A", seed=0, **sizes, **length)
        file = args.runs / f"{d_sae}-evaluated" / "evaluation.json"
        figures = by_command.read(file, "evaluate", run, text=args.text, tokens=args.evaluate_tokens, split="held_out")
        evaluations.append({"d_sae": d_sae} | {name: figures[name] for name in FIGURES})
        runs.append(run)
    found = by_command.read(
        args.runs / "split" / "splitting.json",
        "split",
        *runs,
        text=args.text,
        tokens=args.split_tokens,
        label=args.label,
        memory=args.memory,
        most=10_000,  # all: of a family cut short its growth is not seen
        no_map=True,
    )
    kept = ("label", "tokens", "threshold", "least", "steps", "omitted", "joined", "unlisted")
    result = {name: found[name] for name in kept} | {"evaluations": evaluations}
    result["levels"] = [{name: x for name, x in level.items() if name != "name"} for level in found["levels"]]
    result["family"] = [sum(node["level"] == i for node in found["nodes"]) for i in range(len(runs))]
    result["features"] = features(found)
    return result


def features(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a result of ``monosem split``: the family and the features mostly of the label, with what they fire on."""
    family, listed = ({(n["level"], n["feature"]): n for n in found[name]} for name in ("nodes", "listed"))
    return [
        _brief(n) | {"in_family": where in family, "listed": where in listed}
        for where, n in sorted((family | listed).items())
    ]


def text_of(result: Mapping[str, Any]) -> str:
    """A result as JSON, its ``features`` one to a line."""
    text = json.dumps({**result, "features": []}, indent=1, ensure_ascii=False)
    lines = ",\n  ".join(json.dumps(feature, ensure_ascii=False) for feature in result["features"])
    return text.replace('"features": []', f'"features": [\n  {lines}\n ]') + "\n"


def _brief(node: dict[str, Any]) -> dict[str, Any]:
    figures = {name: round(x, 4) if isinstance(x := node[name], float) else x for name in OF_FEATURE}
    return {"level": node["level"]} | figures | {"words": [word for word, _ in node["words"][:WORDS]]}


def table(result: dict[str, Any]) -> str:
    label = result["label"]
    lines = [
        f"| features | L0 | CE loss recovered | alive | family of {label} by closest parent "
        f"| joined to a member before | mostly {label} | best correlation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    columns = (result[name] for name in ("evaluations", "levels", "family", "joined"))
    for figures, level, family, joined in zip(*columns, strict=True):
        lines.append(
            f"| {level['d_sae']:,} | {figures['l0']:.1f} | {figures['ce_loss_recovered']:.1%} | {level['alive']:,} "
            f"| {family} | {joined} | {level['label_features']} | {level['label_correlation']:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="sample", help="the committed runs read MIX/train.jsonl (default: shipped)")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the dictionaries and what is read of them")
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 4096, 16_384, 131_072])
    parser.add_argument("--l1", type=float, default=8e-4, help="coefficient λ (default: %(default)s)")
    parser.add_argument("--initial-l0", type=float, default=300.0)
    parser.add_argument("--steps", type=int, default=3000, help="of 4,096 activations each (default: %(default)s)")
    parser.add_argument("--label", default="base64")
    parser.add_argument("--split-tokens", type=int, default=2_000_000)
    parser.add_argument("--evaluate-tokens", type=int, default=400_000)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of sums held at a time, per pair of widths")
    parser.add_argument("--out", type=Path, default=resumable.HERE / "results" / "splitting.json")
    args = parser.parse_args(argv)
    made_with = by_command.made_with(args, SIZES)
    result = measured(args)
    about = by_command.about("how features split as a dictionary grows", made_with)
    files.write_text(args.out, text_of(about | result))
    print(table(result))


if __name__ == "__main__":
    main()
