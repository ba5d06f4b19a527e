"""``monosem lm``: train, evaluate or sample the small language models."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from monosem.cli import config_file, from_dataclass, options, trackers
from monosem.cli.actions import Switch
from monosem.cli.help import Help


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Small language models to look into. A and B are shipped: one layer, 512 ReLU neurons; they differ in their "
        "seed only. `monosem lm train` makes another on text of your own."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="train|evaluate|generate")
    _train_arguments(actions)
    _evaluate_arguments(actions)
    _generate_arguments(actions)


def _train_arguments(actions: argparse._SubParsersAction) -> None:
    from monosem.data.lm_config import LMConfig
    from monosem.train.lm_config import LMTrainConfig

    train = actions.add_parser(
        "train",
        formatter_class=Help,
        help="train a tokenizer and a transformer on JSON lines",
        description=(
            "Train a byte-level BPE tokenizer and a small transformer. Ctrl-C saves and stops; the same command "
            "resumes, and ends with exactly the weights of an uninterrupted run. The defaults are the models of "
            "'Towards Monosemanticity': one layer, d_model 128, 512 ReLU neurons, 8,192 tokens, context 256. On two "
            "CPU cores with AVX-512 a million tokens take a minute, with --head-dtype bfloat16 40 seconds."
        ),
    )
    train.add_argument("--text", required=True, help="JSON lines with 'text' and 'source' (plain or .xz), or 'sample'")
    train.add_argument("--out", required=True, help="folder of the model: weights, config, tokenizer, metrics")
    train.add_argument("--tokenizer", metavar="FILE", help="an existing tokenizer.json (default: train one)")
    train.add_argument("--cache", metavar="FOLDER", help="share the tokenized text between runs (default: --out)")
    train.add_argument("--resume-from", type=int, metavar="STEP", help="an earlier checkpoint (default: the last)")
    trackers.add_arguments(train)
    train.add_argument("--quiet", action=Switch, help="no progress bar")
    from_dataclass.add_options(train.add_argument_group("training"), LMTrainConfig)
    from_dataclass.add_options(train.add_argument_group("model"), LMConfig)
    config_file.add_arguments(train)


def _evaluate_arguments(actions: argparse._SubParsersAction) -> None:
    evaluate = actions.add_parser(
        "evaluate",
        formatter_class=Help,
        help="nats per token and bits per byte of each source",
        description=(
            "Cross-entropy on text, source by source. Bits per byte can be compared between models with different "
            "tokenizers; nats per token cannot."
        ),
    )
    evaluate.add_argument("--model", default="A", help=options.MODEL_HELP)
    options.add_model_options(evaluate)
    evaluate.add_argument("--text", default="sample", help="JSON lines (plain or .xz), or 'sample': the shipped text")
    evaluate.add_argument(
        "--split",
        choices=("held_out", "train", "all"),
        default="held_out",
        help="part of the text; 2 %% of the documents of each source are held out",
    )
    evaluate.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    evaluate.add_argument("--quiet", action="store_true", help="no progress bar")


def _generate_arguments(actions: argparse._SubParsersAction) -> None:
    generate = actions.add_parser(
        "generate", formatter_class=Help, help="continue a text", description="Continue a prompt with a model."
    )
    generate.add_argument("--model", default="A", help=options.MODEL_HELP)
    options.add_model_options(generate)
    generate.add_argument("--prompt", default="", help="text to continue (default: begin a document)")
    generate.add_argument("--length", type=int, default=100, help="tokens to write")
    generate.add_argument("--temperature", type=float, default=0.8, help="of sampling; 0 takes the most likely token")
    generate.add_argument("--seed", type=int, default=0, help="seed of the sampling; sample i uses seed + i")
    generate.add_argument("--samples", type=int, default=1, help="number of texts")


def run(args: argparse.Namespace) -> int:
    return {"train": _train, "evaluate": _evaluate, "generate": _generate}[args.action](args)


def _train(args: argparse.Namespace) -> int:
    trackers.check(args)
    from monosem.data.lm_config import LMConfig
    from monosem.data.text_files import SHIPPED, sample_path
    from monosem.train.lm import train_lm
    from monosem.train.lm_config import LMTrainConfig

    config, model_config = from_dataclass.build(LMTrainConfig, args), from_dataclass.build(LMConfig, args)
    tracked = {"train": asdict(config), "model": asdict(model_config), "text": args.text}
    model = train_lm(
        sample_path(args.text) if args.text in SHIPPED else args.text,
        args.out,
        config,
        model_config,
        tokenizer=args.tokenizer,
        cache=args.cache,
        resume_from=args.resume_from,
        progress=not args.quiet,
        loggers=trackers.loggers(args, tracked),
    )
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters in {args.out}. Next:\n"
        f"  monosem lm evaluate --model {args.out} --text {args.text}\n"
        f"  monosem lm generate --model {args.out} --prompt 'Once'"
    )
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from monosem.data import files
    from monosem.data.lm_eval import held_out_loss
    from monosem.data.models import load_model
    from monosem.data.sample import stream_documents

    model = load_model(args.model, device_map=args.device_map)
    figures = held_out_loss(model, stream_documents(args.text, args.split), progress=not args.quiet)
    print(table(figures))
    if args.json:
        about = {"model": model.name, "text": Path(args.text).name, "split": args.split}
        files.write_text(args.json, json.dumps(about | {"sources": figures}, indent=2, ensure_ascii=False) + "\n")
    return 0


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures of ``held_out_loss`` in columns."""
    width = max(len("source"), *map(len, figures))
    lines = [f"{'source':{width}}  nats/token  bits/byte      tokens       bytes"]
    for source, row in figures.items():
        lines.append(
            f"{source:{width}}  {row['nats_per_token']:10.3f}  {row['bits_per_byte']:9.3f}  {row['tokens']:10,}  "
            f"{row['bytes']:10,}"
        )
    return "\n".join(lines)


def _generate(args: argparse.Namespace) -> int:
    from monosem.data.models import load_model

    model = load_model(args.model, device_map=args.device_map)
    prompt = model.encode(args.prompt)
    for sample in range(args.samples):
        ids = model.generate(prompt, args.length, args.temperature, args.seed + sample)
        if args.samples > 1:
            print(f"--- {sample + 1}")
        print(model.decode(ids[1:]))
    return 0
