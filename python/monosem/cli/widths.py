"""``monosem widths``: dictionaries of several widths, side by side."""

from __future__ import annotations

import argparse

from monosem.cli import claim, provenance, run_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare dictionaries of one model: the number of features outside the cluster of ultralow density (separated "
        "by a valley of the density histogram, or in three dimensions with encoder bias and decoder-encoder product), "
        "and what they keep of the model. Writes widths.json and widths.html beside the last dictionary. Needs "
        "scikit-learn: pip install 'monosem[analysis]'."
    )
    parser.add_argument("folders", nargs="+", metavar="RUN", help="dictionaries written by `monosem train`")
    claim.add_text(parser, tokens=200_000)
    parser.add_argument(
        "--density-tokens",
        type=int,
        default=1_000_000,
        metavar="N",
        help="measure densities on about N tokens; features rarer than 1 in N are not seen",
    )


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from monosem.analysis.evidence.widths import measure
    from monosem.analysis.evidence.widths_page import section
    from monosem.analysis.inputs import load_rows

    out = claim.folder_of(args, args.folders[-1])
    folders = [Path(f).resolve() for f in args.folders]
    if twice := next((f for f in folders if folders.count(f) > 1), None):
        raise ValueError(f"folders: {str(twice)!r} is given twice; wanted different dictionaries")
    names = [f.name if [g.name for g in folders].count(f.name) == 1 else f"{f.parent.name}/{f.name}" for f in folders]
    if len(set(names)) < len(names):
        names = [str(f) for f in folders]
    loaded = [run_inputs.named(args, f) for f in args.folders]
    subjects = dict(zip(names, loaded, strict=True))
    places = {(s.model.name, s.hook_name) for s in subjects.values()}
    if len(places) > 1:
        raise ValueError(
            f"folders: they belong to {', '.join(' at '.join(p) for p in sorted(places))}; wanted dictionaries of one "
            "model and hook. Choose with --model and --hook."
        )
    first = next(iter(subjects.values()))
    run_inputs.recall(args, first)
    result = measure(
        subjects,
        load_rows(first.model, args.text, args.split, args.context),
        tokens=args.tokens,
        density_tokens=args.density_tokens,
        progress=not args.quiet,
    )
    origin = provenance.of(args, {n: (f, s) for (n, s), f in zip(subjects.items(), args.folders, strict=True)})
    claim.write(out, "widths", result, [section], f"Dictionaries of model {first.model.name}", {}, origin)
    return 0
