"""``monosem demo``: a model, a text, a dictionary and a page about it, in a few minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from monosem.cli import evaluation_inputs, options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The full pipeline once: activations of the shipped model A on the shipped text, a TopK dictionary of 4,096 "
        "features trained on them, its evaluation on held-out text, and report.html, a page that opens from disk. "
        "About three minutes on two cores. After Ctrl-C, the same command resumes."
    )
    parser.add_argument("--out", default="runs/demo", help="folder for everything")
    options.add_model(parser)
    parser.add_argument("--text", default="sample", help=options.TEXT_HELP)
    parser.add_argument("--d-sae", type=int, default=4096, help="number of features")
    parser.add_argument("--k", type=int, default=16, help="active features per token")
    parser.add_argument("--steps", type=int, default=1400, help="training steps of 2,048 tokens")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate of Adam")
    parser.add_argument(
        "--index-tokens", type=int, default=300_000, help="tokens of training text in which the page looks for examples"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order of the text")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    from monosem.analysis.evaluation_svg import write_picture
    from monosem.analysis.inputs import Subject, load_rows
    from monosem.analysis.metrics import evaluate
    from monosem.analysis.report import find_curves, study, write_report
    from monosem.analysis.sources import SourceMoments
    from monosem.data import fingerprint
    from monosem.data.counted import BY_NAME
    from monosem.data.harvest import ActivationStream
    from monosem.data.models import load_model
    from monosem.nn import TopKSAE
    from monosem.train.config import TrainConfig
    from monosem.train.trainer import Trainer

    out, bars = Path(args.out), not args.quiet
    model = load_model(args.model, device_map=args.device_map)
    model.check_written(args.hook)  # in the end it is evaluated
    print(f"1/4  reading the text for model {model.name}")
    train, held_out = (load_rows(model, args.text, split) for split in ("train", "held_out"))
    print(f"     {train.tokens.numel():,} tokens of {len(train.sources)} sources, {held_out.tokens.numel():,} held out")

    print(f"2/4  training {args.d_sae:,} features, {args.k} active per token, on {args.hook}")
    stream = ActivationStream(model, args.hook, train.tokens, batch_size=2048, seed=args.seed)
    sae = TopKSAE(model.width(args.hook), args.d_sae, args.k, seed=args.seed)
    config = TrainConfig(
        lr=args.lr, batch_size=2048, steps=args.steps, dead_after=400_000, log_every=20, seed=args.seed
    )
    made_of = {"text": fingerprint.of_text(args.text), "split": "train"}
    Trainer(sae, config, out, progress=bars, metadata=made_of).fit(stream)

    print("3/4  evaluating on held-out text")
    moments = SourceMoments(args.d_sae, held_out.sources)
    result = evaluate(sae, model, args.hook, held_out, observers=[moments.update], progress=bars)
    origin = evaluation_inputs.of(Subject(sae, model, args.hook), held_out, args.text, "held_out", BY_NAME)
    result.write_json(out / "evaluation.json", origin)
    write_picture(out / "evaluation.svg", result)

    print("4/4  selecting features for the report")
    feature_study = study(
        sae, model, args.hook, train, tokens=args.index_tokens, vocabulary=train.tokens, progress=bars
    )
    trained = f"Trained on {args.steps:,} steps of 2,048 activations, Adam at {args.lr:g}, seed {args.seed}."
    page = write_report(
        out / "report.html",
        sae,
        model,
        args.hook,
        result,
        feature_study,
        held_out=moments,
        curves=find_curves(out),
        notes=(trained,),
    )
    print(f"\n{result.table()}\n\nopen {page.resolve().as_uri()}")
    return 0
