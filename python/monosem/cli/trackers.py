"""``--log``, ``--log-project`` and ``--log-name``: where else than to ``metrics.jsonl`` the metrics of a run go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.cli import config_file, options

if TYPE_CHECKING:
    from monosem.train.loggers import Logger

NAMES = ("wandb", "tensorboard", "trackio")


def add_arguments(parser) -> None:
    parser.add_argument(
        "--log",
        nargs="+",
        choices=NAMES,
        default=[],
        metavar="TRACKER",
        help="also log the metrics to wandb, tensorboard (files in OUT/tensorboard) or trackio, or to several; a "
        "resumed run continues its curves",
    )
    parser.add_argument("--log-project", metavar="NAME", default="monosem", help="project in wandb and trackio")
    parser.add_argument("--log-name", metavar="NAME", help="name of the run there (default: that of the folder)")


def check(args: argparse.Namespace) -> None:
    """Import the packages before any work is done.

    Raises:
        ImportError: one of them is not installed.
        ValueError: options without effect.
    """
    if not {"wandb", "trackio"} & set(args.log):
        options.refuse(args, ["log_project", "log_name"], "without --log wandb or --log trackio")
    if args.log:
        from monosem.train.trackers import load

        for name in args.log:
            load(name)


def loggers(args: argparse.Namespace, config: dict[str, Any]) -> list[Logger]:
    """``metrics.jsonl``, the options in the folder, and what ``--log`` names."""
    from monosem.train.loggers import JsonlLogger
    from monosem.train.trackers import trackers

    name = args.log_name or Path(args.out).resolve().name
    own = JsonlLogger(Path(args.out) / "metrics.jsonl")
    return [own, config_file.Kept(args), *trackers(args.log, args.out, args.log_project, name, config)]
