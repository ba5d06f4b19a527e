"""``monosem features``: a browser of a dictionary's features, as files that open from disk."""

from __future__ import annotations

import argparse
from pathlib import Path

from monosem.cli import options, run_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a folder of static pages about every feature of a dictionary: search by token, text, source and "
        "statistics; examples of the whole range of activations, histograms, logit weights, neighbours, co-firing "
        "features, correlated neurons. It opens from disk, without a server, and needs no network. Reads the index in "
        "FOLDER/index (`monosem index`), and builds it first where there is none."
    )
    parser.add_argument("folder", help=options.FOLDER)
    options.add_sites(parser)
    parser.add_argument("--index", metavar="FOLDER", help="the index (default: FOLDER/index)")
    options.add_reading(parser, "all")
    parser.add_argument("--tokens", type=int, metavar="N", help="where the index must be built: read about N tokens")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the pages (default: FOLDER/features)")
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="also show which features fire on each token of this text; may be given several times",
    )
    parser.add_argument(
        "--top", type=int, metavar="N", help="top activations per page (default: by the width, 12 or 8)"
    )
    parser.add_argument("--each", type=int, metavar="N", help="examples of each of 11 intervals (default: 3 or 1)")
    parser.add_argument("--random", type=int, metavar="N", help="examples at random (default: 6 or 3)")
    parser.add_argument(
        "--export",
        choices=("neuronpedia", "saedashboard"),
        help="instead of pages write --out in the format of Neuronpedia's exports or of SAEDashboard's batches",
    )
    parser.add_argument(
        "--no-proxies", action="store_true", help="do not colour histograms by proxies as well as by source"
    )
    parser.add_argument(
        "--automata",
        metavar="FILE",
        help="automata.json of `monosem automata`, for the automaton links (default: FOLDER's, if it is there)",
    )
    parser.add_argument("--title", help="title of the pages")
    parser.add_argument("--device", default="cpu", help="where the dictionary runs: cpu or cuda")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from monosem.analysis.dashboard import Counts, write_site
    from monosem.analysis.dashboard.overlays import automaton_links, proxy_marks
    from monosem.data.protocols import of_texts, predicts_next

    if args.export:
        options.refuse(
            args,
            ("prompt", "top", "each", "random", "no_proxies", "automata", "title"),
            f"beside --export {args.export}, which writes no pages",
        )
    if args.out is None and not Path(args.folder).is_dir():
        raise ValueError(f"out: {args.folder!r} is not a folder to write into; name one with --out")
    subject = run_inputs.subject(args, args.folder)
    if args.export and not predicts_next(subject.model):
        raise ValueError(
            f"--export: got {args.export!r}, whose files hold logit weights; {subject.model.name!r} predicts no next "
            "token. Leave it out: the pages do without."
        )
    out = Path(args.out or Path(args.folder) / (args.export or "features"))
    index = _index(args, subject)
    if args.export:
        return _export(args, subject, index, out)
    given = {name: getattr(args, name) for name in ("top", "each", "random") if getattr(args, name) is not None}
    links = automaton_links(args.automata or Path(args.folder) / "automata.json")
    if args.automata and links is None:
        raise FileNotFoundError(
            f"automata: no file {args.automata!r}; wanted automata.json, written by `monosem automata`"
        )
    page = write_site(
        subject,
        index,
        out,
        prompts=args.prompt,
        counts=replace(Counts.for_width(index.d_sae), **given),
        marks=None if args.no_proxies or of_texts(subject.model) else proxy_marks(subject.model, index),
        following=links,
        title=args.title,
        progress=not args.quiet,
    )
    print(f"open {page.resolve().as_uri()}")
    return 0


def _index(args: argparse.Namespace, subject):
    from monosem.analysis.index import build_index, open_index
    from monosem.analysis.inputs import load_rows

    folder = Path(args.index or (Path(args.folder) if Path(args.folder).is_dir() else Path(args.out)) / "index")
    if (folder / "index.json").is_file():
        index = open_index(folder, subject)
        run_inputs.check_index(args, index.meta, folder, ("text", "split", "context", "tokens"))
        return index
    if args.index:
        raise FileNotFoundError(f"index: no index in {args.index!r}; wanted one written by `monosem index`")
    print(f"no index in {folder} yet: reading the text first")
    rows = load_rows(subject.model, args.text, args.split, args.context)
    return build_index(
        subject,
        rows,
        folder,
        tokens=args.tokens,
        progress=not args.quiet,
        notes=run_inputs.index_notes(args),
    )


def _export(args: argparse.Namespace, subject, index, out: Path) -> int:
    from monosem.analysis.dashboard.exports import export

    written = export(args.export, subject, index, out, progress=not args.quiet)
    print(f"written: {written}")
    return 0
