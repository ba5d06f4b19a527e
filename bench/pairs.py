"""Transcoders of model A's MLP, and crosscoders of models A and B.

The transcoders read the normalised input of the MLP and predict its output, with and without a skip connection; the
crosscoders are of the residual stream behind the layer, in both models. 4,096 features, and equally many activations of
the shipped text for each. Prints a table, and writes ``bench/results/pairs.json`` after every run, and the relative
decoder norms of each crosscoder's features to an SVG beside it; the same command goes on where it was stopped.

    python bench/pairs.py [--runs NAME …] [--quick]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

import resumable
import torch
from resumable import Scale

import monosem as ms
from monosem.analysis import relative_norms_svg
from monosem.analysis.crosscoder_metrics import evaluate_subject
from monosem.analysis.inputs import Subject, load_rows, of_source, paired
from monosem.data.sites import Sites
from monosem.nn import registry
from monosem.nn.config import SAEConfig, from_dict

MLP = ("blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out")
RESIDUAL = "blocks.0.hook_resid_post"
MODELS = ("first/A", "first/B")  # the results were measured on them


SCALE = Scale(d_sae=4096, activations=2_048_000, batch_size=2048, held_out=100_000, dead_after=1_000_000)
QUICK = Scale(d_sae=256, activations=32_768, batch_size=1024, held_out=5_000, dead_after=20_000)  # does it work?
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "transcoder": ("transcoder", {"k": 32}),
    "transcoder, skip": ("transcoder", {"k": 32, "skip": True}),
    "crosscoder, batch_topk": ("crosscoder", {"activation": "batch_topk", "k": 32}),
    "crosscoder, relu, λ 0.12": ("crosscoder", {"l1_coefficient": 0.12}),
    "crosscoder, relu, λ 0.05": ("crosscoder", {"l1_coefficient": 0.05}),
}


def sites(kind: str, models: list[Any]) -> Sites:
    """Where a run of this kind is read."""
    return Sites(models[0], MLP) if kind == "transcoder" else Sites(models, RESIDUAL)


def configuration(name: str, read: Sites, d_sae: int) -> SAEConfig:
    kind, settings = RUNS[name]
    config = registry.find(kind).Config
    return from_dict(config, config.shape_of(read.widths) | {"d_sae": d_sae} | settings)


def train(cfg: SAEConfig, read: Sites, tokens: Any, scale: Scale) -> tuple[ms.SAE, dict[str, Any]]:
    """A dictionary that has read ``scale.activations``."""
    steps = scale.activations // scale.batch_size
    config = ms.TrainConfig(
        lr=scale.lr,
        batch_size=scale.batch_size,
        steps=steps,
        sparsity_warmup=cfg.sparsity_warmup,
        dead_after=scale.dead_after,
        log_every=max(1, steps // 10),
    )
    hooks = list(dict.fromkeys(hook for _, hook in read.places))
    sae, began = registry.build(cfg, seed=0), time.perf_counter()
    stream = ms.ActivationStream(read.models, hooks, tokens, scale.batch_size, seed=0, epochs=None)
    ms.Trainer(sae, config, progress=False).fit(stream)
    return sae.eval(), {"steps": steps, "seconds": round(time.perf_counter() - began, 1)}


def subject_of(sae: ms.SAE, read: Sites) -> Subject:
    """The dictionary in its model: a crosscoder at its first source."""
    if isinstance(sae, ms.Crosscoder):
        return of_source(sae, read, 0)
    (model, reads), (_, writes) = read.places
    return paired(sae, model, reads, writes)


def measured(subject: Subject, held_out: Any, scale: Scale) -> tuple[dict[str, Any], torch.Tensor]:
    """The figures, and which features are active on this text."""
    alive = torch.zeros(subject.sae.cfg.d_sae, dtype=torch.bool)
    watch = [lambda block: alive.index_fill_(0, block.features, True)]
    e = evaluate_subject(subject, held_out, tokens=scale.held_out, observers=watch, progress=False)
    places = [
        {
            "model": p.model,
            "hook_name": p.hook_name,
            "explained_variance": round(p.explained_variance, 5),
            "ce_loss_recovered": round(p.ce_loss_recovered, 5),
            "exclusive": p.exclusive,
        }
        for p in e.places
    ]
    return {
        "l0": round(e.l0, 2),
        "explained_variance": round(e.explained_variance, 5),
        "ce_loss_recovered": round(e.ce_loss_recovered, 5),
        "dead": e.dead,
        "places": places,
    }, alive


def table(rows: list[dict[str, Any]]) -> str:
    head = "| run | L0 | explained variance | CE loss recovered | not active | shared | exclusive |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in rows:
        places = row["places"] or [row]
        shares = [" / ".join(f"{p[name]:.1%}" for p in places) for name in ("explained_variance", "ce_loss_recovered")]
        own = [p["exclusive"] for p in row["places"]]
        shared = f"{row['autoencoder']['d_sae'] - row['dead'] - sum(own):,}" if own else "-"
        exclusive = " / ".join(f"{n:,}" for n in own) or "-"
        lines.append(
            f"| {row['name']} | {row['l0']:.1f} | {' | '.join(shares)} | {row['dead']:,} | {shared} | {exclusive} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", metavar="NAME", help=f"of {', '.join(map(repr, RUNS))} (default: all)")
    resumable.add_arguments(parser, "pairs.json", QUICK)
    args = parser.parse_args(argv)
    out = resumable.out_of(parser, args)
    if unknown := sorted(set(args.runs or ()) - set(RUNS)):
        parser.error(f"--runs: got {unknown[0]!r}; wanted some of {', '.join(map(repr, RUNS))}")
    scale, models = QUICK if args.quick else SCALE, [ms.load_model(name) for name in MODELS]
    done = [row for row in resumable.done(out, scale, args.text) if row["name"] in RUNS]
    text, held_out = (load_rows(models[0], args.text, split) for split in ("train", "held_out"))
    for name in args.runs or RUNS:
        read = sites(RUNS[name][0], models)
        cfg = configuration(name, read, scale.d_sae)
        described = json.loads(json.dumps({"kind": cfg.kind, **asdict(cfg)}))
        if any(row["name"] == name and row["autoencoder"] == described for row in done):
            continue
        sae, training = train(cfg, read, text.tokens, scale)
        found, alive = measured(subject_of(sae, read), held_out, scale)
        where = {"hook_name": read.hook_name, "model": read.model_name}
        commit = resumable.commit()
        done = [row for row in done if row["name"] != name]
        done.append({"name": name, **where, "autoencoder": described, "commit": commit} | training | found)
        print(f"{name}: {found} in {training['seconds']} s", flush=True)
        if isinstance(sae, ms.Crosscoder):
            words = "_".join(name.replace(",", "").replace("λ ", "").split())
            picture = out.with_name(f"{out.stem}_{words}.svg")
            relative_norms_svg.write_picture(picture, sae, [model.name for model in read.models], alive)
        done.sort(key=lambda row: list(RUNS).index(row["name"]))
        about = {"what": "transcoders of an MLP and crosscoders of two models, on held-out text"}
        resumable.write(out, about, scale, args.text, done)
    print(table(done))


if __name__ == "__main__":
    main()
