"""``monosem export``: a dictionary in the files of another library, or in a repository of Hugging Face."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = ("sae_lens", "sparsify", "dictionary_learning", "circuit_tracer")
OWN = "monosem"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a dictionary so that another library's own loader reads it and computes the same, or upload it to "
        "Hugging Face with a model card. BatchTopK and Matryoshka become JumpReLU where the library saves its own so. "
        "What a library cannot represent is refused."
    )
    parser.add_argument("run", metavar="RUN", help="a dictionary: a run, or one of another library")
    parser.add_argument("--format", default=OWN, choices=(OWN, *FORMATS), help="whose files (with --out: a library's)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="FOLDER", help="write them there; made when absent")
    where.add_argument("--push", metavar="OWNER/NAME", help="upload them to this repository of Hugging Face")
    parser.add_argument("--name", default="", help="with --push: the folder in the repository, if it has several")
    parser.add_argument("--private", action="store_true", help="with --push: a new repository is private")


def run(args: argparse.Namespace) -> int:
    """Write or upload, and say who reads it."""
    import monosem

    if args.push:
        print(monosem.push_to_hub(args.run, args.push, args.name, format=args.format, private=args.private))
        return 0
    if args.format == OWN:
        raise ValueError(f"--format: got {OWN!r} with --out; wanted one of {', '.join(FORMATS)}. RUN is such a folder.")
    if args.name or args.private:
        raise ValueError("--name, --private: got one of them with --out; wanted them with --push only")
    folder = monosem.export(monosem.load(args.run), args.out, args.format)
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}\nread it by {_reader(args.format, folder)}")
    return 0


def _reader(form: str, folder: Path) -> str:
    return {
        "sae_lens": f"sae_lens.SAE.load_from_disk({str(folder)!r})",
        "sparsify": f"sparsify.SparseCoder.load_from_disk({str(folder)!r})",
        "dictionary_learning": f"from_pretrained({str(folder / 'ae.pt')!r}) of the class that config.json names",
        "circuit_tracer": "circuit-tracer, once the folder has layer_0 … layer_N",
    }[form]
