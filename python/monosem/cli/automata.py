"""``monosem automata``: features that raise the tokens which fire the next feature."""

from __future__ import annotations

import argparse

from monosem.cli import claim, provenance, run_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "For every feature find the tokens that it raises (logit weights that stand out), and count on text which "
        "features fire when such a token comes next. Draws the strongest loops, cycles and chains as graphs. Writes "
        "automata.json and automata.html. Needs networkx: pip install 'monosem[analysis]'."
    )
    claim.add_arguments(parser, tokens=500_000)
    parser.add_argument("--support", type=int, default=20, help="minimum count of a transition")
    parser.add_argument("--lift", type=float, default=2.0, help="minimum factor over chance")
    parser.add_argument("--show", type=int, default=12, help="number of loops, cycles and chains to draw")


def run(args: argparse.Namespace) -> int:
    from monosem.analysis.evidence.automata import measure, section
    from monosem.analysis.inputs import load_rows
    from monosem.data.protocols import check_suits

    out = claim.folder_of(args, args.folder)
    subject = run_inputs.subject(args, args.folder)
    check_suits(subject.model, "automata: they are links through the next token", predicts=True)
    result = measure(
        subject,
        load_rows(subject.model, args.text, args.split, args.context),
        tokens=args.tokens,
        support=args.support,
        lift=args.lift,
        show=args.show,
        progress=not args.quiet,
    )
    origin = provenance.of(args, {"": (args.folder, subject)})
    title = f"Finite-state automata in model {subject.model.name}"
    claim.write(out, "automata", result, [section], title, {"": args.folder}, origin)
    return 0
