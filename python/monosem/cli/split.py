"""``monosem split``: how features split as a dictionary grows."""

from __future__ import annotations

import argparse

from monosem.cli import claim, options, provenance, run_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Join the features of dictionaries of growing width, of one hook of one model, where they fire alike (masked "
        "cosine above 0.4), and follow one feature of the smallest through all of them. Writes splitting.json and "
        "splitting.html with the refinement graph of that feature, the number of children per feature, and an "
        "interactive map of all decoder directions. Memory does not grow with the text, nor with the "
        "product of the widths."
    )
    parser.add_argument("folders", nargs="+", metavar="RUN", help="two or more dictionaries, the smallest first")
    options.add_sites(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--label",
        help="begin from the feature that follows this label best: a source of the text, or Arabic, Hebrew, DNA, "
        "base64 (default: base64 where the text has it, else the label that a feature follows best)",
    )
    what.add_argument("--feature", type=int, metavar="N", help="begin from this feature of the smallest dictionary")
    parser.add_argument("--threshold", type=float, default=0.4, help="masked cosine above which two are joined")
    parser.add_argument("--least", type=int, default=20, help="leave out features that fire on fewer tokens")
    parser.add_argument("--most", type=int, default=24, help="follow at most N new members in each dictionary")
    parser.add_argument("--no-map", action="store_true", help="no map of decoder directions (it needs umap-learn)")
    claim.add_reading(parser, tokens=None, out="the last RUN")
    claim.add_pairs(parser, "pair of runs")


def run(args: argparse.Namespace) -> int:
    from monosem.analysis.evidence import split, split_page
    from monosem.analysis.inputs import load_rows

    if len(args.folders) < 2:
        raise ValueError(f"RUN: got {len(args.folders)} dictionary; wanted two or more, the smallest first")
    out = claim.folder_of(args, args.folders[-1])
    subjects = [run_inputs.named(args, folder) for folder in args.folders]
    run_inputs.recall(args, subjects[0])
    rows = load_rows(subjects[0].model, args.text, args.split, args.context)
    result = split.measure(
        subjects,
        rows,
        label=args.label,
        feature=args.feature,
        names=args.folders,
        tokens=args.tokens,
        threshold=args.threshold,
        min_tokens=args.least,
        max_children=args.most,
        umap=not args.no_map,
        memory=int(args.memory * 2**30),
        folder=args.scratch,
        progress=not args.quiet,
    )
    runs = {str(folder): folder for folder in args.folders}
    origin = provenance.of(args, {str(f): (f, s) for f, s in zip(args.folders, subjects, strict=True)})
    claim.write(out, "splitting", result, [split_page.section], "Features split", runs, origin)
    return 0
