"""Benchmarks that train one dictionary after the other and go on where they were stopped: sizes, options, file."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monosem.bench import machine
from monosem.data import files, fingerprint

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Scale:
    """The size of every run of a benchmark."""

    d_sae: int
    activations: int
    batch_size: int
    held_out: int
    dead_after: int
    lr: float = 1e-3


def add_arguments(parser: argparse.ArgumentParser, result: str, quick: Scale) -> None:
    """``--quick``, ``--text`` and ``--out``; ``result`` is the file's name in ``bench/results``."""
    what = f"{quick.d_sae} features and {quick.activations:,} activations: does it work?"
    parser.add_argument("--quick", action="store_true", help=what)
    parser.add_argument(
        "--text",
        default="sample",
        help="default: the shipped text; the committed runs read that of tools/build_sample_text.py --first",
    )
    where = f"the JSON (default: bench/results/{result}; with --quick: needed)"
    parser.add_argument("--out", type=Path, help=where)
    parser.set_defaults(result=HERE / "results" / result)


def out_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Path:
    """Where the result goes; a trial replaces no result."""
    if args.quick and args.out is None:
        parser.error("--quick: got no --out; wanted one, so that no result is replaced by a trial")
    return args.out or args.result


def done(out: Path, scale: Scale, text: str) -> list[dict[str, Any]]:
    """The runs of the same size and text that are there already."""
    if not out.exists():
        return []
    before = json.loads(out.read_text())
    if before["training"] != asdict(scale):
        raise SystemExit(f"{out}: its runs have other sizes, {before['training']}; move it, or give --out")
    if before["text"] != digest(text):
        raise SystemExit(
            f"{out}: its runs read another text than {text!r}; give that (--text), move the file, or --out"
        )
    return before["runs"]


def digest(text: str) -> str:
    """Of the content of a text."""
    return fingerprint.of_text(text)["sha256"]


def commit() -> str | None:
    """The commit of this checkout."""
    return machine.commit(HERE.parent)


def write(out: Path, about: dict[str, Any], scale: Scale, text: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the file anew, and return what is in it."""
    sizes = {"training": asdict(scale), "text": digest(text), "machine": machine.describe() | {"commit": commit()}}
    result = about | sizes | {"runs": runs}
    files.write_text(out, json.dumps(result, indent=1) + "\n")
    return result
