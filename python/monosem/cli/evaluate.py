"""``monosem evaluate``: quality of a trained dictionary on text."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from monosem.cli import claim, evaluation_inputs, options, processes, run_inputs

if TYPE_CHECKING:
    from monosem.distributed.peers import Peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a trained dictionary over text it has not seen and measure: L0, explained variance (1 - FVU), CE loss "
        "recovered with its raw losses (untouched, with the dictionary, with zeros, with the mean activation), the KL "
        "divergence of the predictions, dead and ultralow-density "
        "features, the density histogram, and for each kind of text the feature that correlates best with it. Prints a "
        "table and writes evaluation.json and evaluation.svg."
    )
    parser.add_argument("folder", help=options.FOLDER)
    options.add_sites(parser)
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace an evaluation.json of other inputs, or of more tokens",
    )
    options.add_reading(parser, "held_out")
    parser.add_argument(
        "--tokens", type=int, metavar="N", help="evaluate about N tokens, in evenly spaced contexts (default: all)"
    )
    options.add_skipped(parser, kept=" (they keep their activation)", norm=options.AS_TRAINED)
    parser.add_argument("--out", help="folder for evaluation.json and evaluation.svg (default: the dictionary's)")
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write report.html: the most interesting features, from the same text",
    )
    parser.add_argument("--device", default="cpu", help="where the dictionary runs: cpu or cuda")
    processes.add_timeout(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    processes.place(args)
    with processes.together(args) as peers:
        return _evaluate(args, peers)


def _evaluate(args: argparse.Namespace, peers: Peers) -> int:
    from monosem.analysis.crosscoder_metrics import evaluate_subject
    from monosem.analysis.evaluation_svg import write_picture
    from monosem.analysis.inputs import load_rows
    from monosem.analysis.report import find_curves, study, write_report
    from monosem.data.protocols import predicts_next

    if args.report and peers.size > 1:
        raise ValueError(
            f"--report: got it in {peers.size} processes; wanted one, which reads the features of the page. Leave it "
            "out here, or run without torchrun."
        )
    subject = run_inputs.subject(args, args.folder)
    sae, model, hook_name = subject.sae, subject.model, subject.hook_name
    if predicts_next(model):
        model.check_written(hook_name)  # before the text is read
    elif args.report:
        raise ValueError(
            f"--report: got it for a dictionary of {model.name!r}, which predicts no next token; the report shows "
            "logit weights. Leave it out: `monosem features` writes pages without them."
        )
    rows = load_rows(model, args.text, args.split, args.context)
    options = {
        "tokens": args.tokens,
        "skip_positions": args.skip_positions,
        "skip_tokens": args.skip_tokens,
        "skip_norm": args.skip_norm,
        "progress": not args.quiet,
    }
    out = claim.folder_of(args, args.folder)
    origin = evaluation_inputs.of(
        subject, rows, args.text, args.split, args.skip_tokens, args.skip_positions, args.tokens, args.skip_norm
    )
    if not args.replace:
        evaluation_inputs.check_replaces(out / "evaluation.json", origin)
    result = evaluate_subject(subject, rows, peers=peers, **options)

    def write() -> None:
        out.mkdir(parents=True, exist_ok=True)
        result.write_json(out / "evaluation.json", origin)
        write_picture(out / "evaluation.svg", result)

    peers.first(write)
    print(result.table())
    print(f"\nwritten: {out / 'evaluation.json'}, {out / 'evaluation.svg'}")
    if args.report:
        feature_study = study(sae, model, hook_name, rows, **options)
        page = write_report(
            out / "report.html",
            sae,
            model,
            hook_name,
            result,
            feature_study,
            curves=find_curves(args.folder),
            skip_positions=args.skip_positions,
        )
        print(f"open {page.resolve().as_uri()}")
    return 0
