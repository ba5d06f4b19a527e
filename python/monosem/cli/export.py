"""``monosem export``: a dictionary in the files of another library."""

from __future__ import annotations

import argparse

FORMATS = ("sae_lens", "sparsify", "dictionary_learning", "circuit_tracer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a dictionary so that another library's own loader reads it and computes the same. BatchTopK and "
        "Matryoshka become JumpReLU where the library saves its own so. What a library cannot represent is refused."
    )
    parser.add_argument("run", metavar="RUN", help="a dictionary: a run, or one of another library")
    parser.add_argument("--format", required=True, choices=FORMATS, help="the library")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="made when absent")


def run(args: argparse.Namespace) -> int:
    """Write the files, and say which class reads them."""
    import monosem

    folder = monosem.export(monosem.load(args.run), args.out, args.format)
    reads = {
        "sae_lens": f"sae_lens.SAE.load_from_disk({str(folder)!r})",
        "sparsify": f"sparsify.SparseCoder.load_from_disk({str(folder)!r})",
        "dictionary_learning": f"from_pretrained({str(folder / 'ae.pt')!r}) of the class that config.json names",
        "circuit_tracer": "circuit-tracer, once the folder has layer_0 … layer_N",
    }
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}\nread it by {reads[args.format]}")
    return 0
