"""``monosem doctor``: what was built, what this machine has, and which backend is used."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Report what was built, the instruction set in use and the GPU, and why each backend is or is not used."
    )


def run(args: argparse.Namespace) -> int:
    """Print one line per finding."""
    from monosem import doctor

    findings = doctor.examine()
    width = max(len(f.what) for f in findings)
    for f in findings:
        print(f"{f.what:{width}}  {f.state:8}  {f.why}".replace("\n", "\n" + " " * (width + 12)))
    return 0
