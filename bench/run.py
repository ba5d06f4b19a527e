"""All measurements in one command: ``make bench``, or ``make bench FULL=1`` for all of it.

    python bench/run.py [--full] [--only SECTION ...] [--again] [--out FOLDER]

The peers' environments are made first, where they are missing. Each section writes its JSON as it ends, so that a run
that was stopped continues: a section is skipped when its file holds the same request, of the same commit.
A peer that fails is listed with its error, and the rest continues. Then the tables and plots are made.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import end_to_end
import environments
import growth
import instruction_sets
import losses
import peers
import tables
import torch
import train_step

from monosem.bench import machine, operations
from monosem.bench.workloads import VARIANTS, WORKLOADS, Workload
from monosem.data import files

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
WITH_PEERS = ("train_step", "losses", "end_to_end")
Section = tuple[str, dict[str, Any], Callable[..., dict[str, Any]]]


def sections(full: bool, quick: bool, errors: dict[str, str], say: Callable[[str], None]) -> list[Section]:
    """Name, request (what is asked for; it decides whether a stored result will do) and how it is measured."""
    rounds, budget = (15, 900.0) if full else (7, 160.0)
    laptop, small = (WORKLOADS[name] for name in (("tiny", "tiny") if quick else ("laptop", "small")))
    chosen: list[Section] = []  # the calls read ``errors`` when they are made

    def add(name: str, call: Callable[..., dict[str, Any]], w: Workload | None = None, **request: Any) -> None:
        about = request | ({"workload": w.to_json()} if w else {})
        chosen.append((name, about, lambda: call(*([w] if w else []), say=say, **request)))

    def steps(w: Workload, **how: Any) -> dict[str, Any]:
        return train_step.measure(w, errors, **how)

    def run_losses(w: Workload, who: list[str] | None = None, **how: Any) -> dict[str, Any]:
        everyone = peers.entrants(w, errors=errors)
        everyone.insert(1, peers.CLIPPED)
        return losses.measure(w, [e for e in everyone if who is None or e.title in who], **how)

    def end(**how: Any) -> dict[str, Any]:
        return end_to_end.measure(errors=errors, **how)

    for kind in (*peers.KINDS, *VARIANTS):
        w = laptop.of(kind)
        add(f"train_step.{w.name}.{kind}", steps, w, rounds=rounds, budget=budget)
        add(
            f"losses.{kind}",
            run_losses,
            small.of(kind).with_(lr=1e-3),
            steps=10 if quick else 500,
            batches=10 if quick else 100,
        )
    if not quick:
        add("train_step.neurons.topk", steps, WORKLOADS["neurons"], rounds=rounds, budget=budget)
    for kind in ("topk", "relu"):  # the two encoders that all kinds have between them
        add(f"operations.{laptop.name}.{kind}", operations.compare, laptop.of(kind), rounds=rounds)
    add("instruction_sets", instruction_sets.measure, laptop, rounds=rounds, budget=budget / 2)
    if quick:
        add("growth.f", growth.measure, laptop, axis="f", values=[512, 1024], rounds=3)
        add("end_to_end", end, steps=2, rounds=1, n=256, f=256)
        return chosen
    # A run through the buffers of contexts: 125 and 252 steps of 4,096 tokens, and the batch before them from which
    # the decoder's bias starts, use up 2 and 4 buffers of about 260,900, and begin no other.
    add("end_to_end", end, steps=252 if full else 125, rounds=3 if full else 2)
    last = 524_288 if full else 65_536
    add(
        "growth.f",
        growth.measure,
        laptop,
        axis="f",
        values=_doubling(4096, last),
        budget=120.0 if full else 15.0,
        dense_elements=growth.DENSE_ELEMENTS if full else 2048 * 16_384,
    )
    if full:
        # Free decoder norms leave the first plateau sooner (500 steps); where do all of them end?
        add(
            "losses.relu.longer",
            run_losses,
            small.with_(kind="relu", lr=1e-3),
            steps=1500,
            batches=100,
            who=["monosem", "PyTorch eager", "SAELens"],
        )
        add("growth.n", growth.measure, laptop, axis="n", values=_doubling(256, 16_384), budget=120.0)
        add("growth.k", growth.measure, laptop, axis="k", values=_doubling(8, 512), budget=60.0)
        add("train_step.gpt2.topk", steps, WORKLOADS["gpt2"], rounds=5, budget=300.0)
        for name in ("widest", "widest_neurons"):
            add(f"train_step.{name}.topk", steps, WORKLOADS[name], rounds=3, budget=300.0, who=["monosem", "sparsify"])
        add("train_step.million.topk", _alone, WORKLOADS["million"], rounds=3)
    return chosen


def _alone(w: Workload, **how: Any) -> dict[str, Any]:
    """A width at which only ours is tried: does it train in this machine's memory?"""
    from monosem.bench import step_comparison
    from monosem.bench.rounds import MONOSEM

    return step_comparison.compare(w, [MONOSEM], **how)


def _doubling(first: int, last: int) -> list[int]:
    return [first << i for i in range((last // first).bit_length())]


def will_do(path: Path, request: dict[str, Any], commit: str | None) -> bool:
    """Whether a stored result is of this request and this commit (one with changes never is)."""
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    same = stored.get("request") == json.loads(json.dumps(request))
    return same and commit is not None and not commit.endswith("-dirty") and stored["machine"]["commit"] == commit


def folder_name(about_machine: dict[str, Any]) -> str:
    """A folder for the results of this kind of machine: ``amd-epyc-avx2-2-threads``."""
    best = [flag for flag in about_machine["isa"] if flag != "bf16"][-1:] or ["baseline"]
    return re.sub(
        r"[^a-z0-9]+", "-", f"{about_machine['cpu']} {best[0]} {about_machine['threads']} threads".lower()
    ).strip("-")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every width, and more rounds: hours rather than minutes")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that everything runs; no figures")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="sections whose names begin so")
    parser.add_argument("--again", action="store_true", help="repeat measurements that are stored")
    parser.add_argument("--keep", action="store_true", help="keep stored results of any commit")
    parser.add_argument("--threads", type=int, help="threads (default: as PyTorch chooses)")
    parser.add_argument("--out", type=Path, help="folder (default: bench/results/<this machine>)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    about_machine = machine.describe()
    about_machine["commit"] = machine.commit(ROOT)
    if about_machine["commit"] is None:
        print("monosem is not installed from this checkout: its figures name no commit, and are measured each time")
    out = args.out or RESULTS / folder_name(about_machine)
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    errors: dict[str, str] = {}  # filled before anything is measured
    chosen = [s for s in sections(args.full, args.quick, errors, _say) if s[0].startswith(tuple(args.only or [""]))]
    if any(name.startswith(WITH_PEERS) for name, _, _ in chosen):
        errors |= environments.make_missing()
    for name, request, call in chosen:
        path = out / f"{name}.json"
        if not args.again and ((args.keep and path.exists()) or will_do(path, request, about_machine["commit"])):
            print(f"{name}: there already", flush=True)
            continue
        print(f"{name}", flush=True)
        began = time.monotonic()
        try:
            result = call() | {"request": request}
            result["machine"]["commit"] = about_machine["commit"]
        except Exception as error:  # the other sections continue
            traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {error}")
            continue
        files.write_text(path, json.dumps(result, indent=1) + "\n")
        print(f"{name}: {time.monotonic() - began:.0f} s\n\n{tables.terminal(result)}\n", flush=True)
    tables.write(out)
    print(f"tables and plots: {out}")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def _say(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
