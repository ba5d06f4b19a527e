"""``monosem reproduce``: every claim of the paper, on one page, for a model of yours."""

from __future__ import annotations

import argparse
from pathlib import Path

from monosem.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "From a language model to report.html: trains dictionaries of several widths (A/0 512, A/1 4,096, A/2 16,384 "
        "features; `paper` also A/5 131,072), the same on a second model (B/1) and on a copy of the first with "
        "shuffled weights, then computes each claim of Towards Monosemanticity and sets the paper's figure next "
        "to yours. `small` takes about 18 minutes on two cores. The page is written after each stage, the widest "
        "dictionaries come last. After Ctrl-C, the same command resumes: finished stages are stored in OUT/evidence."
    )
    parser.add_argument(
        "--preset",
        choices=("small", "paper"),
        default="small",
        help="widths of the dictionaries, and length of training",
    )
    parser.add_argument("--out", default="runs/reproduce", help="folder for everything")
    options.add_model(parser)
    parser.add_argument(
        "--other",
        default="B",
        help="a second model that differs from the first in its seed, for universality; 'none' leaves that claim out",
    )
    parser.add_argument("--text", default="sample", help=options.TEXT_HELP)
    options.add_kind(parser, "kind of the dictionaries (`monosem train --help` lists them)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order of the text")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from monosem.reproduce.context import Context
    from monosem.reproduce.page import write_report
    from monosem.reproduce.presets import PRESETS
    from monosem.reproduce.runner import run as run_stages
    from monosem.reproduce.stages import all_stages
    from monosem.reproduce.training import stage_of

    context = Context(
        Path(args.out),
        replace(PRESETS[args.preset], kind=args.kind),
        args.model,
        None if args.other == "none" else args.other,
        args.hook,
        args.text,
        args.seed,
        not args.quiet,
    )
    main = stage_of(context.preset.main)
    results = run_stages(
        context,
        all_stages(context),
        after=lambda so_far: write_report(context, so_far) if main in so_far else None,
    )
    page = write_report(context, results)
    print(f"\nopen {page.resolve().as_uri()}")
    return 0
