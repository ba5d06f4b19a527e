"""``monosem profile``: where the time of a run's own training step goes, and how far from the floor."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from monosem.cli import options, run_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Take a few dozen training steps in memory, with the dictionary, the optimizer's state, the settings and the "
        "activations of a run, finished or not: the run's files are read and not changed. Prints one line per phase: "
        "milliseconds, share of the step, its floor (the roofline lower bound of its products and bytes, with rates "
        "measured now) and the ratio of both; then how the step was computed: the encoder's product and its "
        "fallbacks, candidates and rescored rows per token, tokens encoded twice, dense or sparse, AuxK. Writes "
        "profile.json and profile.svg. Shut down other work first. docs/howto/slow_step.md gives the remedy for each "
        "figure."
    )
    parser.add_argument("folder", help="a run of `monosem train` or Trainer; one of several: RUN/0")
    data = parser.add_argument_group("activations (default: those of the run)")
    data.add_argument(
        "--activations",
        metavar="FOLDER",
        help="read activations written by `monosem harvest`, instead of running a model",
    )
    options.add_model(data, as_trained=True)
    options.add_text(data)
    options.add_split(data, "train")
    options.add_context(data, " (default: as trained, or else the longest that the model reads, 2,048 at most)")
    options.add_skipped(data, norm=options.AS_TRAINED)
    how = parser.add_argument_group("measurement")
    how.add_argument("--steps", type=int, default=30, help="steps to measure, after 3 to warm up")
    how.add_argument("--batch-size", type=int, metavar="N", help="tokens per step (default: the run's)")
    how.add_argument("--threads", type=int, help="threads to use (default: as PyTorch chooses)")
    how.add_argument(
        "--out", metavar="FOLDER", help="folder of profile.json and profile.svg (default: the run's folder)"
    )
    how.add_argument("--device", default="cpu", help="cpu or cuda; floors are measured on a CPU only")
    how.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    for name in ("steps", "batch_size", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')}: got {value}; wanted at least 1")
    if args.activations:
        options.refuse(
            args,
            [name for name in options.READS if name != "text"],
            f"beside --activations {args.activations}, which settles it",
        )
    import torch
    from tqdm.auto import tqdm

    from monosem.bench import profile, profile_svg, show
    from monosem.data import files
    from monosem.train.batches import Batches
    from monosem.train.reopened import reopen

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    opened = reopen(args.folder, args.device, time_phases=True)
    learner = opened.learner
    batch_size = args.batch_size or learner.cfg.batch_size
    source = _source(args, opened.made_of, batch_size, learner.cfg.seed)
    batches = Batches(source, learner.sae.W_dec, learner.sae.batch_widths, batch_size, learner.cfg.seed)
    if opened.normaliser is not None and opened.normaliser.is_ready:
        batches.normaliser = opened.normaliser
    source.progress = False
    step = max(0, min(opened.steps_done, learner.cfg.steps - 1))
    with tqdm(bar_format="{desc}", leave=False, disable=args.quiet or None) as bar:
        result = profile.measure(learner, batches, step, args.steps, say=bar.set_description_str)
    print(_heading(args.folder, opened.steps_done, result))
    print("\n" + show.text(show.profile_table(result)) + "\n")
    for line in [*result["words"], *result["notices"]]:
        print(line)
    out = Path(args.out or args.folder)
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / "profile.json", json.dumps({"run": str(args.folder)} | result, indent=1) + "\n")
    files.write_text(out / "profile.svg", profile_svg.draw(result))
    print(f"\nwritten: {out / 'profile.json'}, {out / 'profile.svg'}")
    return 0


def _source(args: argparse.Namespace, made_of: dict[str, Any], batch_size: int, seed: int):
    """The run's activations, or the given ones, endless."""
    from monosem.data.norm_limit import AS_HARVESTED, AS_TRAINED, as_trained

    skip_norm = as_trained(made_of) if args.skip_norm == AS_TRAINED else args.skip_norm
    if args.activations:
        from monosem.data.store import ActivationStore

        if skip_norm is None and "skip_norm" not in args.given:  # nothing is known of a dictionary without a run
            skip_norm = AS_HARVESTED
        return ActivationStore(args.activations, batch_size, seed, epochs=None, skip_norm=skip_norm)
    from monosem.bench.profile import WARMUP
    from monosem.data.contexts import load_contexts
    from monosem.data.harvest import ActivationStream
    from monosem.data.models import load_model
    from monosem.data.sites import Sites, as_list

    name, hook = args.model or made_of.get("model"), args.hook or made_of.get("hook_name")
    if name is None or hook is None:
        missing = "model" if name is None else "hook"
        raise ValueError(
            f"{missing}: {str(args.folder)!r} does not say which it was trained on; wanted --model and --hook, or "
            "--activations FOLDER of `monosem harvest`"
        )
    tokens = made_of.get("tokens_from") if args.text is None else None
    if tokens is None or not Path(tokens).is_file():
        tokens = None
        if "split" not in args.given and made_of.get("split"):
            args.split = made_of["split"]
        run_inputs.recall_text(args, made_of)
    placed = {"device_map": args.device_map} if args.device_map else {"device": args.device}
    models = [load_model(each, **placed) for each in dict.fromkeys(as_list(name))]
    Sites(models, hook)  # reports an unknown hook before any text is read
    context = None if tokens else args.context
    rows = load_contexts(models[0], text=args.text or "sample", tokens=tokens, split=args.split, context=context)
    # As many contexts as the steps need: to fill a buffer with a whole text takes minutes.
    contexts = -(-(args.steps + WARMUP) * batch_size // max(1, rows.shape[1] - args.skip_positions))
    rows = rows[:: max(1, len(rows) // contexts)]
    return ActivationStream(
        models,
        hook,
        rows,
        batch_size,
        seed,
        epochs=None,
        skip_positions=args.skip_positions,
        skip_tokens=args.skip_tokens,
        skip_norm=skip_norm,
    )


def _heading(folder: str, steps_done: int, result: dict[str, Any]) -> str:
    from monosem.bench.show import figure, machine_line

    shape, machine = result["shape"], result["machine"]
    lines = [
        f"{folder}: {result['kind']}, N={shape['n']:,} D={shape['d']:,} F={shape['f']:,}, L0 {shape['l0']:.1f}, after "
        f"{steps_done:,} steps; mean of {result['steps']} steps",
        f"{machine_line(machine)}; load {machine['load']} when it began",
    ]
    if rates := result["floor"]:
        flops, moved = rates["flops_per_second"] / 1e9, rates["bytes_per_second"] / 1e9
        lines.append(f"floor: {rates['product']} product at {figure(flops)} GFLOP/s, {figure(moved)} GB/s")
    return "\n".join(lines)
