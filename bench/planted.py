"""Recovery and absorption per kind of autoencoder, on a planted dictionary with topics and a hierarchy.

512 true features in 96 dimensions, about 8 active; 32 of them have 4 exclusive children each. Dictionaries of 384
latents, fewer than there are features, are trained on the same tokens at an L0 of about 8. Prints a table, and writes
``bench/results/planted.json`` and ``planted.svg``.

    python bench/planted.py [--seeds 3] [--kinds topk matryoshka] [--add]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from planted_svg import bars

import monosem as ms
from monosem.analysis.recovery import recovery
from monosem.bench import machine
from monosem.bench.workloads import VARIANTS
from monosem.data import files
from monosem.data.forest import Hierarchy
from monosem.data.planted import PlantedDictionary, Topics
from monosem.nn import registry
from monosem.nn.config import SAEConfig

D, TRUE, ACTIVE, LATENTS, BATCH = 96, 512, 8, 384, 1024
HIERARCHY = Hierarchy(trees=32, branching=4, depth=1, child_probability=0.6)
TOPICS = Topics(count=8, probability=0.25, coupling=0.3)
HELD_OUT = 16  # batches
SPARE = 100  # batches for resampling, so that a kind that resamples trains on as many as the others
# Settings for every kind that has them. λ of a penalty without a target is fitted, so that L0 is within 10 % of ACTIVE.
OFFERED = {"k": ACTIVE, "target_l0": float(ACTIVE), "l0_coefficient": 0.1, "l1_coefficient": 0.0145}
NESTED = {"matryoshka_topk": {"kind": "matryoshka", "settings": {"activation": "topk"}}}
TANH = {
    # Anthropic, January 2025; λ is fitted.
    "jumprelu_tanh": {
        "kind": "jumprelu",
        "settings": {"form": "tanh", "decoder_norm": "free", "target_l0": None, "l0_coefficient": 6e-4},
    }
}
COLUMNS = {  # figure: (heading, format)
    "l0": ("L0", "{:.2f}"),
    "explained_variance": ("expl. var.", "{:.1%}"),
    "mcc": ("MCC", "{:.3f}"),
    "roots_and_free": ("found: no parent", "{:.1%}"),
    "children": ("found: children", "{:.1%}"),
    "uniqueness": ("uniqueness", "{:.1%}"),
    "f1": ("F1", "{:.3f}"),
    "parent_recall_alone": ("parent recall, alone", "{:.1%}"),
    "parent_recall": ("with child", "{:.1%}"),
    "absorption": ("absorption", "{:.1%}"),
    "dead": ("dead", "{:.0f}"),
}


def configurations() -> dict[str, SAEConfig]:
    """Every registered kind that reconstructs its input, and the variants of settings, by name."""
    kinds = {kind: {"kind": kind, "settings": {}} for kind in registry.KINDS}
    made = {}
    for name, variant in (kinds | NESTED | TANH | VARIANTS).items():
        settings = registry.setting(variant["kind"], **OFFERED | variant["settings"])
        if set(variant["settings"]) <= set(settings):  # a variant of a kind that has them
            cfg = registry.configure(variant["kind"], D, LATENTS, **settings)
            if registry.build(cfg, seed=0).batch_widths == (D,):  # its batches are activations alone, not pairs
                made[name] = cfg
    return made


def planted(seed: int) -> PlantedDictionary:
    return PlantedDictionary(
        D, TRUE, ACTIVE, seed, hierarchy=HIERARCHY, topics=TOPICS, max_probability=0.2, batch_size=BATCH
    )


def trained(cfg: SAEConfig, batches: torch.Tensor, lr: float, seed: int) -> ms.SAE:
    """An autoencoder after one pass over the batches [steps + SPARE, N, D], the last of which only resampling reads."""
    sae, steps = registry.build(cfg, seed=seed), len(batches) - SPARE
    plan = ms.ResampleConfig.for_run(steps, BATCH, LATENTS) if cfg.resampled else None
    config = ms.TrainConfig(
        lr=lr, batch_size=BATCH, steps=steps, log_every=steps, dead_after=100_000, resample=plan, seed=seed
    )
    ms.Trainer(sae, config, progress=False).fit(list(batches))
    return sae


def coefficient(cfg: SAEConfig) -> str | None:
    """The setting that L0 follows from, where no other setting gives it."""
    fields = asdict(cfg)
    if "k" in fields or fields.get("target_l0") is not None:
        return None
    return next((name for name in ("l0_coefficient", "l1_coefficient") if name in fields), None)


def fitted(cfg: SAEConfig, source: PlantedDictionary, batches: torch.Tensor, lr: float, name: str) -> SAEConfig:
    """The configuration with the coefficient at which ACTIVE latents are active: secants of log L0 over log λ."""
    points: list[tuple[float, float]] = []
    x = source.batch(len(batches))  # the first that no run reads
    for _ in range(5):
        sae = trained(cfg, batches, lr, seed=0)
        points.append((math.log(getattr(cfg, name)), math.log(max(float(sae.encode(x).l0()), 0.01))))
        at, l0 = points[-1]
        print(f"  {name} {math.exp(at):.4g}: L0 {math.exp(l0):.2f}", flush=True)
        if abs(l0 - math.log(ACTIVE)) < 0.1:
            return cfg
        slope = -1.0
        if len(points) > 1 and points[-2][0] != at:
            slope = min(-0.3, max(-5.0, (points[-2][1] - l0) / (points[-2][0] - at)))
        cfg = replace(cfg, **{name: math.exp(at + (math.log(ACTIVE) - l0) / slope)})
    return cfg


def measure(cfg: SAEConfig, source: PlantedDictionary, batches: torch.Tensor, lr: float, seed: int) -> dict[str, Any]:
    began = time.perf_counter()
    sae = trained(cfg, batches, lr, seed)
    seconds = time.perf_counter() - began
    found = recovery(sae, source.features, source.held_out(HELD_OUT), source.parents, source.depths).to_dict()
    return {"seed": seed, "seconds": round(seconds, 1)} | {
        name: round(value, 5) if isinstance(value, float) else value for name, value in found.items()
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over the seeds of each figure in the table."""
    rows = [
        run | {"roots_and_free": run["recovered_by_depth"][0], "children": run["recovered_by_depth"][1]} for run in runs
    ]
    return {
        name: {
            "mean": round(statistics.fmean(row[name] for row in rows), 5),
            "sd": round(statistics.stdev(row[name] for row in rows), 5) if len(rows) > 1 else 0.0,
        }
        for name in COLUMNS
    }


def table(result: dict[str, Any]) -> str:
    lines = ["| kind | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |"]
    lines.append("|" + "---|" * (len(COLUMNS) + 1))
    for row in result["kinds"]:
        cells = []
        for name, (_, form) in COLUMNS.items():
            figure = row["summary"][name]
            spread = f" ± {form.format(figure['sd'])}" if name in ("f1", "absorption") else ""
            cells.append(form.format(figure["mean"]) + spread)
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def data(seeds: int, steps: int, lr: float) -> dict[str, Any]:
    """The data and the training that all kinds of a result share."""
    return {
        "what": "recovery of a planted dictionary, and absorption of parents by their children, on held-out tokens",
        "planted": planted(0).settings() | {"seed": f"0 to {seeds - 1}"},
        "training": {"tokens": steps * BATCH, "steps": steps, "lr": lr},
    }


def other_kinds(path: Path, kinds: list[str], seeds: int, steps: int, lr: float) -> list[dict[str, Any]]:
    """The kinds of an earlier result beside these, each with the machine that trained it.

    Raises:
        ValueError: that result is of other data or another training.
    """
    there = json.loads(path.read_text(encoding="utf-8"))
    for name, value in data(seeds, steps, lr).items():
        if there[name] != value:
            raise ValueError(f"add: {str(path)!r} has {name} {there[name]}; wanted {value}. Choose another --out.")
    return [{"machine": there.get("machine")} | row for row in there["kinds"] if row["name"] not in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="data and weights; each kind is trained once per seed")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--kinds", nargs="+", choices=list(configurations()), default=list(configurations()))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "planted.json")
    parser.add_argument("--add", action="store_true", help="keep the other kinds of --out, trained on the same data")
    args = parser.parse_args()
    others = other_kinds(args.out, args.kinds, args.seeds, args.steps, args.lr) if args.add else []

    this_machine = machine.describe()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in args.kinds}
    configs = {name: configurations()[name] for name in args.kinds}
    for seed in range(args.seeds):
        source = planted(seed)
        batches = torch.stack([source.batch(number) for number in range(args.steps + SPARE)])
        for name in args.kinds:
            if seed == 0 and (setting := coefficient(configs[name])):
                configs[name] = fitted(configs[name], source, batches, args.lr, setting)
            runs[name].append(measure(configs[name], source, batches, args.lr, seed))
            shown = {figure: runs[name][-1][figure] for figure in ("l0", "f1", "mcc", "absorption", "seconds")}
            print(f"seed {seed} {name}: {shown}", flush=True)

        rows = [
            {
                "name": name,
                "autoencoder": {"kind": configs[name].kind, **asdict(configs[name])},
                "machine": this_machine,
                "summary": summary(runs[name]),
                "runs": runs[name],
            }
            for name in args.kinds
        ]
        result = data(seed + 1, args.steps, args.lr) | {"kinds": others + rows}
        if others and seed + 1 < args.seeds:
            continue  # all kinds of a file have as many seeds
        files.write_text(args.out, json.dumps(result, indent=1) + "\n")  # after each seed: a stop loses one at most
        files.write_text(args.out.with_suffix(".svg"), bars(result["kinds"]))
        print(table(result), flush=True)


if __name__ == "__main__":
    main()
