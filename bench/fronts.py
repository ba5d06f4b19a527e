"""Sparsity against faithfulness for every kind of dictionary, on model A's activations.

4,096 features on the 512 MLP neurons of the shipped model A; every run reads as many activations of the shipped text.
Each kind is trained over a range of the setting that decides its L0: k, a target, or λ; HierarchicalTopK once, and
shown at every k. Prints a table, and writes ``bench/results/fronts.json`` and ``fronts.svg`` after every run; the same
command goes on where it was stopped. Every front gets its middle first, then its ends: a part is a rough picture.

    python bench/fronts.py [--kinds topk jumprelu] [--values 128] [--quick]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import fronts_svg
import resumable
from resumable import Scale

import monosem as ms
from monosem.analysis.inputs import load_rows
from monosem.analysis.metrics import evaluate
from monosem.nn import registry
from monosem.nn.config import SAEConfig, from_dict

HOOK = "blocks.0.mlp.hook_post"
BUDGETS = (8, 16, 32, 64, 128)
# The setting that decides a kind's L0: the first of these that has an effect, with the values that it gets.
SWEEPS: dict[str, tuple[float, ...]] = {
    "k": BUDGETS,
    "target_l0": BUDGETS,
    "l1_coefficient": (0.01, 0.005, 0.0025, 0.001, 0.0004),
    "l0_coefficient": (0.01, 0.004, 0.0015, 0.0006, 0.0002),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # dictionaries that differ from a kind by its settings
    "relu, free norms": ("relu", {"decoder_norm": "free"}),
    "relu, free norms, x - b_dec": ("relu", {"decoder_norm": "free", "apply_b_dec_to_input": True}),
    "jumprelu, tanh": ("jumprelu", {"form": "tanh", "decoder_norm": "free"}),
    "matryoshka, topk": ("matryoshka", {"activation": "topk"}),
}


SCALE = Scale(d_sae=4096, activations=4_096_000, batch_size=4096, held_out=100_000, dead_after=1_000_000)
QUICK = Scale(d_sae=512, activations=65_536, batch_size=1024, held_out=10_000, dead_after=20_000)  # does it work?


@dataclass(frozen=True)
class Run:
    """One dictionary to train: a point of the front ``name``, or several if it serves every k of ``budgets``."""

    name: str
    swept: str
    cfg: SAEConfig
    budgets: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        settings = {"kind": self.cfg.kind, **asdict(self.cfg)}
        return {"name": self.name, "swept": self.swept, "autoencoder": json.loads(json.dumps(settings))}

    def is_of(self, row: dict[str, Any]) -> bool:
        """Whether a point of the JSON is of this run; a setting that came later had its default then."""
        settings = dict(row["autoencoder"])
        same = (row["name"], row["swept"], settings.pop("kind")) == (self.name, self.swept, self.cfg.kind)
        return same and from_dict(type(self.cfg), settings) == self.cfg

    def values(self) -> tuple[float, ...]:
        """Of the swept setting, where this run has points."""
        return self.budgets or (getattr(self.cfg, self.swept),)

    def gives(self, values: list[float] | None) -> bool:
        """Whether a point of this run is at one of these values; None: any value."""
        return values is None or bool(set(self.values()) & set(values))

    def points(self, sae: ms.SAE) -> dict[float, ms.SAE]:
        """The dictionaries to evaluate, by the value of the swept setting."""
        if not self.budgets:
            return {getattr(self.cfg, self.swept): sae}
        return {k: _limited(sae, k, self.budgets) for k in self.budgets}


def _limited(sae: ms.SAE, k: int, budgets: tuple[int, ...]) -> ms.SAE:
    """A HierarchicalTopK that gives only the k largest entries of each token."""
    limited = registry.build(replace(sae.cfg, k=k, budgets=tuple(j for j in budgets if j <= k)))
    limited.load_state_dict(sae.state_dict())
    return limited


def in_turn(runs: list[Run]) -> list[Run]:
    """The middle of a front, its ends, and then the others."""
    first = list(dict.fromkeys((len(runs) // 2, 0, len(runs) - 1))) if runs else []
    return [runs[i] for i in first] + [run for i, run in enumerate(runs) if i not in first]


def swept(name: str, kind: str, settings: dict[str, Any], d_in: int, d_sae: int) -> list[Run]:
    """The runs of one front."""
    cfg = registry.configure(kind, d_in, d_sae, **settings)
    impossible = set(cfg.without_effect) | ({"target_l0"} if settings.get("form") == "tanh" else set())
    field = next(f for f in SWEEPS if f not in impossible and registry.setting(kind, **{f: None}))
    values = [value for value in SWEEPS[field] if field not in ("k", "target_l0") or value < d_sae]
    if registry.setting(kind, budgets=None):
        ks = tuple(int(value) for value in values)
        return [Run(name, field, registry.configure(kind, d_in, d_sae, k=ks[-1], budgets=ks, **settings), ks)]
    return [Run(name, field, registry.configure(kind, d_in, d_sae, **settings | {field: value})) for value in values]


def fronts(d_in: int, d_sae: int) -> dict[str, list[Run]]:
    """The runs by front: of every kind for the activations of one hook, and of the variants."""
    plain = {
        kind: (kind, {})
        for kind, cls in registry.KINDS.items()
        if cls.Config.reconstructs_its_input and not registry.setting(kind, n_sources=1)
    }
    return {name: swept(name, kind, some, d_in, d_sae) for name, (kind, some) in (plain | VARIANTS).items()}


def train(run: Run, model, tokens, scale: Scale) -> tuple[ms.SAE, dict[str, Any]]:
    """A dictionary that has read ``scale.activations``, those that resampling looked at among them."""
    steps = scale.activations // scale.batch_size
    plan = None
    if run.cfg.resampled:
        plan = ms.ResampleConfig.for_run(steps, scale.batch_size, scale.d_sae)
        steps -= len(plan.at_steps) * -(-plan.n_inputs // scale.batch_size)
        plan = ms.ResampleConfig.for_run(steps, scale.batch_size, scale.d_sae)
    config = ms.TrainConfig(
        lr=scale.lr,
        batch_size=scale.batch_size,
        steps=steps,
        sparsity_warmup=run.cfg.sparsity_warmup,
        dead_after=scale.dead_after,
        resample=plan,
        log_every=max(1, steps // 10),
    )
    sae = registry.build(run.cfg, seed=0)
    began = time.perf_counter()
    stream = ms.ActivationStream(model, HOOK, tokens, scale.batch_size, seed=0, epochs=None)
    ms.Trainer(sae, config, progress=False).fit(stream)
    return sae, {"steps": steps, "seconds": round(time.perf_counter() - began, 1)}


def measured(sae: ms.SAE, model, held_out, scale: Scale, baselines: dict) -> dict[str, float]:
    e = evaluate(sae, model, HOOK, held_out, tokens=scale.held_out, baselines=baselines, progress=False)
    return {
        "l0": round(e.l0, 2),
        "ce_loss_recovered": round(e.ce_loss_recovered, 5),
        "explained_variance": round(e.explained_variance, 5),
        "dead": e.dead,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| kind | setting | L0 | CE loss recovered | explained variance | dead |", "|---|---|---|---|---|---|"]
    for row in rows:
        setting = f"{row['swept']} = {row['at']:g}"
        shares = f"{row['ce_loss_recovered']:.1%} | {row['explained_variance']:.1%}"
        lines.append(f"| {row['name']} | {setting} | {row['l0']:.1f} | {shares} | {row['dead']} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", metavar="NAME", help="of the fronts to train (default: all)")
    values = "of the swept setting to train, where a front has them (default: all)"
    parser.add_argument("--values", nargs="+", type=float, metavar="X", help=values)
    resumable.add_arguments(parser, "fronts.json", QUICK)
    args = parser.parse_args(argv)
    out = resumable.out_of(parser, args)
    scale, model = QUICK if args.quick else SCALE, ms.load_model("first/A")
    runs = fronts(model.width(HOOK), scale.d_sae)
    if unknown := sorted(set(args.kinds or ()) - set(runs)):
        parser.error(f"--kinds: got {unknown[0]!r}; wanted some of {', '.join(runs)}")
    names = args.kinds or list(runs)
    ordered = [in_turn([run for run in runs[name] if run.gives(args.values)]) for name in names]
    if not any(ordered):
        known = sorted({value for name in names for run in runs[name] for value in run.values()})
        parser.error(f"--values: got {args.values}; wanted some of {', '.join(f'{v:g}' for v in known)}")
    done = resumable.done(out, scale, args.text)
    text, held_out = (load_rows(model, args.text, split) for split in ("train", "held_out"))
    baselines: dict = {}
    for run in (front[turn] for turn in range(max(map(len, ordered))) for front in ordered if turn < len(front)):
        if any(run.is_of(row) for row in done):
            continue
        sae, training = train(run, model, text.tokens, scale)
        commit = resumable.commit()
        for at, limited in run.points(sae).items():
            found = measured(limited, model, held_out, scale, baselines)
            done.append(run.to_json() | {"at": at, "commit": commit} | training | found)
            print(f"{run.name}, {run.swept} = {at:g}: {found} in {training['seconds']} s", flush=True)
        done.sort(key=lambda row: (list(runs).index(row["name"]), row["l0"]))
        what = "L0 against CE loss recovered and explained variance, held-out text"
        about = {"what": what, "model": model.name, "hook_name": HOOK}
        result = resumable.write(out, about, scale, args.text, done)
        fronts_svg.plot(result, out.with_suffix(".svg"))
    print(table(done))


if __name__ == "__main__":
    main()
