"""Every claim of `monosem reproduce` at 131,072 features: time and memory of each.

    python bench/widest.py --out bench/results/widest.json

The stages are those of `reproduce --preset paper`, with everything that is indexed (main dictionary, second
model, control with shuffled weights) at the paper's greatest width, and as few steps and tokens as make each stage do
all of its work. So the dictionaries are all but untrained and their figures mean nothing; what is shown is the
machinery. Each stage runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import stages

from monosem.reproduce.context import Context
from monosem.reproduce.presets import PAPER, Run
from monosem.reproduce.runner import Stage
from monosem.reproduce.stages import all_stages

WIDEST = max(run.d_sae for run in PAPER.runs)


def context(args: argparse.Namespace) -> Context:
    """The widths of the paper's A/0 to A/5, with B and the control as wide as A/5."""
    runs = tuple(Run(run.name, run.d_sae, args.steps) for run in PAPER.runs if run.model == "A")
    runs += tuple(Run(f"{model}/5", WIDEST, args.steps) for model in ("B", "shuffled"))
    preset = replace(
        PAPER,
        runs=runs,
        main="A/5",
        batch_size=1024,
        index_tokens=args.tokens,
        compare_tokens=args.tokens,
        explained=args.explained,
    )
    return Context(args.folder, preset, progress=False)


def stage(args: argparse.Namespace) -> dict[str, float]:
    """One stage, in this process."""
    from monosem.reproduce.runner import run

    own = context(args)
    began = time.perf_counter()
    run(own, [s for s in all_stages(own) if s.name == args.only], say=lambda text: None)
    return {"seconds": round(time.perf_counter() - began, 1)}


def chosen(args: argparse.Namespace, own: Context) -> list[Stage]:
    """The stages that are not left out."""
    return [s for s in all_stages(own) if s.name not in args.leave_out.split(",")]


def report(args: argparse.Namespace) -> dict[str, float]:
    """The page of claims from what all stages wrote."""
    from monosem.reproduce.page import write_report
    from monosem.reproduce.runner import run

    own = context(args)
    began = time.perf_counter()
    page = write_report(own, run(own, chosen(args, own), say=lambda text: None))
    return {"seconds": round(time.perf_counter() - began, 1), "mb": round(page.stat().st_size / 1e6, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384, help="read for the index and for every claim")
    parser.add_argument("--steps", type=int, default=4, help="of training, batches of 1,024")
    parser.add_argument("--explained", type=int, default=5, help="features that are explained, of each kind")
    parser.add_argument(
        "--folder", type=Path, help="folder of all results, with which a later call continues (default: temporary)"
    )
    parser.add_argument("--only", help="one stage, in this process; prints JSON")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--leave-out", default="", metavar="STAGE,…", help="stages to leave out; the result lists them")
    args = parser.parse_args()
    if args.only:
        stages.answer(report(args) if args.only == "report" else stage(args))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        result = {"what": "every claim at the greatest width", "d_sae": WIDEST, "tokens": args.tokens, "stages": {}}
        result |= {"left_out": [name for name in args.leave_out.split(",") if name]}
        for name in [*(s.name for s in chosen(args, context(args))), "report"]:
            kept = args.folder / "measured" / f"{name}.json"
            if not kept.is_file():
                figures = stages.run(__file__, name, args, ("tokens", "steps", "explained", "leave_out"))
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(figures))
            result["stages"][name] = json.loads(kept.read_text())
            print(name, result["stages"][name], flush=True)
    measured = result["stages"].values()
    total, peak = sum(s["seconds"] for s in measured), max(s["peak_gb"] for s in measured)
    return stages.conclude(result | {"seconds": round(total, 1), "peak_gb": peak}, args.out)


if __name__ == "__main__":
    sys.exit(main())
