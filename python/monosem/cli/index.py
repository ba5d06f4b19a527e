"""``monosem index``: one pass over text that stores examples and statistics of every feature."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.cli import options, processes, run_inputs

if TYPE_CHECKING:
    from monosem.distributed.peers import Peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a trained dictionary over text once and write an index: for every feature its density, activation "
        "histogram by source, top activations, a uniform sample of each of 11 activation intervals and of all, the "
        "tokens and the features it fires with, and sums for correlations with sources and neurons. The browser of "
        "features and the commands of the claims read it. Memory depends on the number of features, not on the text. "
        "After Ctrl-C or a crash, the same command resumes."
    )
    parser.add_argument("folder", help=options.FOLDER)
    options.add_sites(parser)
    options.add_reading(parser, "all")
    parser.add_argument("--tokens", type=int, metavar="N", help="read about N tokens, evenly spaced (default: all)")
    options.add_skipped(parser, norm=options.AS_TRAINED)
    parser.add_argument("--out", metavar="FOLDER", help="folder of the index (default: FOLDER/index)")
    parser.add_argument("--top", type=int, default=20, help="top activations kept per feature")
    parser.add_argument("--random", type=int, default=64, help="random examples kept per feature")
    parser.add_argument(
        "--each", type=int, default=8, help="random examples kept per feature and activation level (of 32)"
    )
    parser.add_argument("--slots", type=int, default=32, help="tokens and co-firing features kept per feature")
    parser.add_argument("--no-neurons", action="store_true", help="no sums for correlations with neurons")
    parser.add_argument(
        "--no-codes",
        action="store_true",
        help="do not store every activation (8 bytes for each active feature of each token); `monosem features` then "
        "cannot use the index",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random examples")
    parser.add_argument("--device", default="cpu", help="where the dictionary runs: cpu or cuda")
    processes.add_timeout(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    processes.place(args)
    with processes.together(args) as peers:
        return _index(args, peers)


def _index(args: argparse.Namespace, peers: Peers) -> int:
    from monosem.analysis.index import IndexSettings, build_index
    from monosem.analysis.inputs import load_rows
    from monosem.data.protocols import of_texts

    subject = run_inputs.subject(args, args.folder)
    if args.out is None and not Path(args.folder).is_dir():
        raise ValueError(f"out: {args.folder!r} is not a folder to write into; name one with --out")
    out = Path(args.out or Path(args.folder) / "index")
    settings = IndexSettings(
        top=args.top,
        random=args.random,
        each=args.each,
        slots=args.slots,
        neurons=not args.no_neurons,
        codes=not args.no_codes,
        seed=args.seed,
        skip_positions=args.skip_positions,
        skip_tokens=args.skip_tokens,
        skip_norm=args.skip_norm,
    )
    rows = load_rows(subject.model, args.text, args.split, args.context)
    index = build_index(
        subject,
        rows,
        out,
        tokens=args.tokens,
        settings=settings,
        progress=not args.quiet,
        notes=run_inputs.index_notes(args),
        peers=peers,
    )
    alive = int((index.counts > 0).sum())
    size = sum(p.stat().st_size for p in out.iterdir())
    unit = "text" if of_texts(subject.model) else "token"
    print(f"{index.tokens:,} {unit}s read; {alive:,} of {index.d_sae:,} features fire; {size / 1e6:,.0f} MB in {out}")
    return 0
