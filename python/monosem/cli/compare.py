"""``monosem compare``: are the features of two models the same?"""

from __future__ import annotations

import argparse

from monosem.cli import claim, provenance, run_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Match the features of two dictionaries by their activations: for each feature of A the feature of B whose "
        "activations on the same tokens correlate best with its own. The dictionaries may be of two models with the "
        "same tokenizer (universality: their neurons are matched too, for comparison) or of one model (two seeds, "
        "widths or kinds). Random directions show the correlation of a match by chance. Also compares logit weights "
        "and attributions of the matched pairs. Memory does not grow with the text, nor with the product of the widths."
    )
    parser.add_argument("folder_a", metavar="RUN_A", help="a dictionary written by `monosem train`, or neurons:A")
    parser.add_argument("folder_b", metavar="RUN_B", help="another one, or neurons:B")
    for side in "ab":
        parser.add_argument(f"--model-{side}", help=f"model of RUN_{side.upper()} (default: as trained)")
        parser.add_argument(f"--hook-{side}", help=f"hook of RUN_{side.upper()} (default: as trained)")
    claim.add_reading(parser, tokens=None, out="RUN_A")
    parser.add_argument("--least", type=int, default=20, help="compare features that fire on at least N tokens")
    parser.add_argument("--no-baseline", action="store_true", help="leave out the match with random directions")
    claim.add_pairs(parser, "comparison")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random directions")


def run(args: argparse.Namespace) -> int:
    from monosem.analysis.evidence import compare
    from monosem.analysis.evidence.compare_page import section, title
    from monosem.analysis.inputs import load_rows, load_subject

    out = claim.folder_of(args, args.folder_a)
    a = load_subject(args.folder_a, args.model_a, args.hook_a, args.device)
    run_inputs.recall(args, a)
    b = load_subject(args.folder_b, args.model_b, args.hook_b, args.device)
    result = compare.measure(
        a,
        b,
        load_rows(a.model, args.text, args.split, args.context),
        tokens=args.tokens,
        min_tokens=args.least,
        baseline=not args.no_baseline,
        seed=args.seed,
        memory=int(args.memory * 2**30),
        folder=args.scratch,
        progress=not args.quiet,
    )
    title_ = title(result.to_dict())
    origin = provenance.of(args, {"A": (args.folder_a, a), "B": (args.folder_b, b)})
    claim.write(out, "universality", result, [section], title_, {"A": args.folder_a, "B": args.folder_b}, origin)
    return 0
