"""The subjects of `monosem explain` and `monosem rate`: a dictionary, the neurons it was trained on, and a control."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monosem.cli import options, run_inputs


@dataclass(frozen=True)
class Compared:
    """One kind of feature with its index over text."""

    kind: str
    folder: str
    subject: Any
    index: Any


def add_arguments(parser: argparse.ArgumentParser, count: int) -> None:
    """``--features``, ``--neurons``, ``--shuffled`` and the inputs of the indexes."""
    parser.add_argument(
        "--features", type=int, default=count, metavar="N", help="features of the dictionary, at random"
    )
    parser.add_argument(
        "--neurons",
        type=int,
        metavar="N",
        help="neurons of the same hook, at random (default: the same number, 0 for transcoders and crosscoders)",
    )
    parser.add_argument(
        "--shuffled",
        metavar="RUN2",
        help="a dictionary trained on the model with shuffled weights (`monosem train --model A~shuffled --out RUN2`), "
        "as the paper's control; the same number of its features",
    )
    options.add_sites(parser)
    options.add_reading(parser, "all")
    parser.add_argument(
        "--tokens",
        type=int,
        default=200_000,
        metavar="N",
        help="of a dictionary without an index (`monosem index`), and of neurons, read about N tokens, evenly spaced",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of features and examples")
    parser.add_argument("--out", help="output folder (default: the dictionary's)")
    parser.add_argument("--device", default="cpu", help="where the dictionary runs: cpu or cuda")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def open_all(args: argparse.Namespace) -> list[tuple[Compared, int]]:
    """Every requested kind, with its number of features.

    A dictionary's index is that of `monosem index` where there is one, else made for the occasion.
    """
    from monosem.analysis.index.build import read_meta
    from monosem.analysis.inputs import load_subject
    from monosem.analysis.joined import Joined
    from monosem.data.protocols import check_suits

    for name in ("features", "neurons"):
        value = getattr(args, name)
        if value is not None and value < 0:
            raise ValueError(f"{name}: got {value}; wanted 0 or more")
    index = Path(args.folder) / "index"
    run_inputs.follow_index(args, index)
    main = run_inputs.subject(args, args.folder)
    check_suits(main.model, "RUN: its features would be shown by tokens and logit weights", predicts=True)
    if (index / "index.json").is_file():
        run_inputs.check_index(args, read_meta(index), index, ("text", "split", "context"))
    requested = [("features", args.folder, main, args.features)]
    neurons = args.features if args.neurons is None else args.neurons
    if isinstance(main.model, Joined):
        if args.neurons:
            raise ValueError(
                f"--neurons: got {args.neurons}; a {main.sae.cfg.kind} has no neurons that its features stand for. "
                "Leave it out."
            )
        neurons = 0
    if neurons:
        model: Any = main.model
        own = f"neurons:{model.name}"
        requested.append(("neurons", own, load_subject(own, model, main.hook_name, args.device), neurons))
    if args.shuffled:
        control = load_subject(args.shuffled, None, None, args.device)
        if control.model.name == main.model.name:
            raise ValueError(
                f"shuffled: {args.shuffled!r} was trained on {control.model.name!r}, the model itself; wanted one on "
                f"{main.model.name}~shuffled (`monosem train --model {main.model.name}~shuffled`)"
            )
        requested.append(("shuffled", args.shuffled, control, args.features))
    return [(_open(kind, folder, s, args), count) for kind, folder, s, count in requested if count]


def _open(kind: str, folder: str, subject: Any, args: argparse.Namespace) -> Compared:
    from monosem.analysis.evidence.open_or_build import index_of

    index = index_of(subject, folder, args.text, args.split, args.tokens, not args.quiet, args.context)
    return Compared(kind, folder, subject, index)
