"""``monosem proxies``: which features follow which kind of text, judged without a network."""

from __future__ import annotations

import argparse

from monosem.cli import claim, provenance, run_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Correlate the activation of every feature and every neuron with computational proxies: log-likelihood ratios "
        "of tokens under a kind of text (Arabic, Hebrew, DNA, base64, hexadecimal, Cyrillic, Greek, Han, Kana, Korean, "
        "Devanagari and others that the text holds). Reports precision (specificity) and recall (sensitivity) of the "
        "best feature of each. Writes proxies.json and proxies.html."
    )
    claim.add_arguments(parser, tokens=500_000)
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="NAME=WHAT",
        help="a proxy of your own, repeatable: NAME=REGEX (its score: the share of a token inside matches); "
        "NAME=MODULE:FUNCTION (a Python function from the list of a document's tokens to one number each; above 0 "
        "means this kind); or DNA or base64, which are looked for unasked only where a source is named so",
    )
    parser.add_argument("--only-own", action="store_true", help="leave the built-in proxies out")


def run(args: argparse.Namespace) -> int:
    from monosem.analysis.evidence.proxies import measure, parse, section
    from monosem.analysis.inputs import load_rows
    from monosem.data.protocols import check_suits

    if args.only_own and not args.proxy:
        raise ValueError("only_own: there is no proxy left; name one with --proxy NAME=REGEX")
    out = claim.folder_of(args, args.folder)
    subject = run_inputs.subject(args, args.folder)
    check_suits(subject.model, "proxies: they are scored token by token")
    own = [parse(spec, subject.model) for spec in args.proxy]
    result = measure(
        subject,
        load_rows(subject.model, args.text, args.split, args.context),
        proxies=[] if args.only_own else None,
        extra=own,
        tokens=args.tokens,
        progress=not args.quiet,
    )
    origin = provenance.of(args, {"": (args.folder, subject)})
    title = f"Kinds of text in model {subject.model.name}"
    claim.write(out, "proxies", result, [section], title, {"": args.folder}, origin)
    return 0
