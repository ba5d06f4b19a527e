"""What the verbs of the evidence share: their options, and writing ``<claim>.json`` and ``<claim>.html``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monosem.cli import options

_FOLDER = "a dictionary written by `monosem train` or monosem.save; or neurons:MODEL, the neurons of a model"


def add_text(parser: argparse.ArgumentParser, tokens: int) -> None:
    """``--model``, ``--hook``, ``--text``, ``--split``, ``--tokens``, ``--out``, ``--device``, ``--quiet``."""
    options.add_model(parser, as_trained=True)
    options.add_text(parser)
    options.add_split(parser, "all")
    parser.add_argument(
        "--tokens", type=int, default=tokens, metavar="N", help="read about N tokens, in evenly spaced contexts"
    )
    parser.add_argument("--out", help="folder for what is written (default: the dictionary's)")
    parser.add_argument("--device", default="cpu", help="where the dictionary runs: cpu or cuda")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_arguments(parser: argparse.ArgumentParser, tokens: int) -> None:
    """The dictionary's folder and :func:`add_text`."""
    parser.add_argument("folder", help=_FOLDER)
    add_text(parser, tokens)


def folder_of(args: argparse.Namespace, name: str) -> Path:
    """Where to write; neurons have no folder of their own."""
    if args.out is None and not Path(name).is_dir():
        raise ValueError(f"out: {name!r} is no folder to write beside; name one with --out")
    return Path(args.out or name)


def write(out: Path, claim: str, result: Any, section: Callable[[dict[str, Any]], Any], title: str) -> None:
    """Print the table; write the JSON and the page, both whole."""
    from monosem.analysis.evidence.section import write_page
    from monosem.data import sealed

    plain = result.to_dict()
    out.mkdir(parents=True, exist_ok=True)
    stored = out / f"{claim}.json"
    sealed.write(stored, plain, indent=None, allow_nan=False)
    # The page is made from what was stored, so that it can be made again from the file alone.
    page = write_page(out / f"{claim}.html", title, [section(sealed.read(stored, "out", claim)[0])])
    print(result.table())
    print(f"\nwritten: {out / f'{claim}.json'}\nopen {page.resolve().as_uri()}")
