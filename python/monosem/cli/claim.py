"""Shared by the commands of the claims: their options, and writing ``<claim>.json`` and ``<claim>.html``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monosem.cli import options, provenance


def add_reading(parser: argparse.ArgumentParser, tokens: int | None, out: str = "the dictionary's") -> None:
    """``--text``, ``--split``, ``--context``, ``--tokens``, ``--out``, ``--device``, ``--quiet``.

    Args:
        tokens: number to read by default; None: all.
        out: the folder that ``--out`` means by default.
    """
    options.add_reading(parser, "all")
    count = "read about N tokens, in evenly spaced contexts" + (" (default: all)" if tokens is None else "")
    parser.add_argument("--tokens", type=int, default=tokens, metavar="N", help=count)
    parser.add_argument("--out", help=f"output folder (default: {out})")
    parser.add_argument("--device", default="cpu", help="where dictionaries run: cpu or cuda")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_text(parser: argparse.ArgumentParser, tokens: int) -> None:
    """``--model`` and ``--hook``, and :func:`add_reading`."""
    options.add_sites(parser)
    add_reading(parser, tokens)


def add_pairs(parser: argparse.ArgumentParser, per: str) -> None:
    """``--memory`` and ``--scratch`` of a command that sums over pairs of features of two dictionaries."""
    parser.add_argument("--memory", type=float, default=1.0, metavar="GiB", help=f"sums held at a time, per {per}")
    parser.add_argument(
        "--scratch", metavar="FOLDER", help="where codes go when the sums do not fit (default: temporary)"
    )


def add_arguments(parser: argparse.ArgumentParser, tokens: int) -> None:
    """The dictionary's folder and :func:`add_text`."""
    parser.add_argument("folder", help=options.FOLDER)
    add_text(parser, tokens)


def folder_of(args: argparse.Namespace, name: str) -> Path:
    """Where to write; neurons have no folder of their own."""
    if args.out is None and not Path(name).is_dir():
        raise ValueError(f"out: {name!r} is not a folder to write into; name one with --out")
    return Path(args.out or name)


def write(
    out: Path,
    claim: str,
    result: Any,
    sections: Sequence[Callable[[dict[str, Any]], Any]],
    title: str,
    runs: Mapping[str, str | Path],
    origin: Mapping[str, Any],
    *,
    plain: dict[str, Any] | None = None,
) -> None:
    """Print the table; write the JSON and the page, each atomically.

    Args:
        runs: {name in the section ("" is the page's own): folder of that dictionary}. Where one has a browser of
            features (`monosem features`), numbers on the page lead to it.
        origin: what the result was made from, ``provenance.of``. A result of something else that stands there already
            is kept under another name.
        plain: what is stored, where it is more than ``result.to_dict()``.
    """
    from monosem.analysis.evidence import numbers
    from monosem.analysis.evidence.section import write_page
    from monosem.analysis.metrics import plain as finite
    from monosem.data import sealed

    record = finite((result.to_dict() if plain is None else plain) | {"made_from": dict(origin)})
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{claim}.json"
    kept = provenance.set_aside(path, origin)
    sealed.write(path, record, indent=None, allow_nan=False)
    # The page is made from what was stored, so that it can be made again from the file alone.
    stored = sealed.read(path, "out", claim)[0]
    browsers = {name: numbers.browser(out, folder) for name, folder in runs.items()}
    if "" in runs and not browsers[""]:
        browsers[""] = numbers.browser(out, out)
    page = write_page(out / f"{claim}.html", title, [make(stored) for make in sections], browsers=browsers)
    print(result.table())
    if kept is not None:
        print(f"\n{path} was made from other text, other dictionaries or more tokens: it is kept as {kept}")
    print(f"\nwritten: {path}\nopen {page.resolve().as_uri()}")
