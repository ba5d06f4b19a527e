"""``monosem neurons``: are the features just neurons?"""

from __future__ import annotations

import argparse

from monosem.cli import claim, provenance, run_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "For every feature: the neuron whose activation correlates most with it, the neuron with the largest decoder "
        "weight, how many neurons its direction is spread over, and whether its context stands among any neuron's 20 "
        "strongest examples. Writes neurons.json and neurons.html."
    )
    claim.add_arguments(parser, tokens=500_000)
    parser.add_argument(
        "--memory",
        type=float,
        default=1.0,
        metavar="GIB",
        help="memory for the cross products of features and neurons; with less, the text is read several times",
    )


def run(args: argparse.Namespace) -> int:
    from monosem.analysis.evidence.neurons import measure
    from monosem.analysis.evidence.neurons_page import section
    from monosem.analysis.inputs import load_rows

    if args.memory <= 0:
        raise ValueError(f"memory: got {args.memory}; wanted GiB above 0")
    out = claim.folder_of(args, args.folder)
    subject = run_inputs.subject(args, args.folder)
    result = measure(
        subject,
        load_rows(subject.model, args.text, args.split, args.context),
        tokens=args.tokens,
        memory=int(args.memory * 2**30),
        progress=not args.quiet,
    )
    origin = provenance.of(args, {"": (args.folder, subject)})
    title = f"Features and neurons of model {subject.model.name}"
    claim.write(out, "neurons", result, [section], title, {"": args.folder}, origin)
    return 0
