"""``monosem rate``: a page for rating features blindly by hand, and the scores of the answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from monosem.cli import claim, provenance, subjects


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Without --score: write rate.html, a page that opens from disk and shows features, neurons and, with "
        "--shuffled, features of the model with shuffled weights, mixed and unlabelled, each with examples of 11 "
        "intervals of activation and its positive logits, to be rated on the six-step rubric of Towards "
        "Monosemanticity (14 points). The page keeps the ratings in the browser and saves them to a file. The key "
        "to the items is rate.key.json beside it: annotators should not open it. "
        "With --score FILE: read saved answers, of one or several annotators, and write rubric.json and rubric.html, "
        "with medians for each kind."
    )
    parser.add_argument("folder", nargs="?", help="a dictionary written by `monosem train` or monosem.save")
    parser.add_argument("--score", nargs="+", metavar="FILE", help="score answers that the page saved")
    parser.add_argument(
        "--key", metavar="FILE", help="key to the items (default: rate.key.json in --out, the folder, or beside FILE)"
    )
    parser.add_argument("--each", type=int, default=5, help="examples per interval, at most")
    subjects.add_arguments(parser, 20)


def run(args: argparse.Namespace) -> int:
    return _score(args) if args.score else _write(args)


def _write(args: argparse.Namespace) -> int:
    from monosem.analysis.evidence.explain import choose_features
    from monosem.analysis.evidence.rate import candidates, write_study
    from monosem.analysis.sources import sources_read

    if args.folder is None:
        raise ValueError("folder: got none; wanted a dictionary to rate, or --score FILE to score answers")
    if args.each < 1:
        raise ValueError(f"each: got {args.each}; wanted at least 1")
    out = claim.folder_of(args, args.folder)
    if (out / "rate.key.json").exists():
        raise ValueError(
            f"out: {str(out)!r} holds the key of an earlier study, which its answers need; choose another folder with "
            "--out, or move rate.html and rate.key.json away"
        )
    items, sources = [], []
    everyone = subjects.open_all(args)
    for compared, count in everyone:
        index = compared.index
        sources += [name for name in sources_read(index.rows) if name not in sources]
        items += candidates(
            compared.subject,
            index,
            index.rows,
            choose_features(index, count, args.seed),
            compared.kind,
            per_interval=args.each,
            skip_positions=index.meta["settings"]["skip_positions"],
            progress=not args.quiet,
        )
    origin = provenance.of(args, {c.kind: (c.folder, c.subject) for c, _ in everyone})
    page, key = write_study(out, items, args.seed, sources, origin)
    print(f"{len(items)} items to rate; key: {key}\nopen {page.resolve().as_uri()}")
    return 0


def _score(args: argparse.Namespace) -> int:
    from monosem.analysis.evidence.rate import section
    from monosem.analysis.evidence.rate.ratings import measure_files
    from monosem.data import fingerprint, sealed

    places = [Path(p) for p in (args.out, args.folder, Path(args.score[0]).parent) if p]
    keys = [Path(args.key)] if args.key else [p / "rate.key.json" for p in places if (p / "rate.key.json").is_file()]
    if not keys:
        raise FileNotFoundError(
            f"key: no rate.key.json in {', '.join(map(str, places))}; wanted the key, which is next "
            "to the page. Name it with --key"
        )
    result = measure_files(args.score, keys[0])
    origin = sealed.read(keys[0], "key", "the key of a study", note=False)[0].get("made_from", {})
    origin["answers"] = [{"file": str(path), **fingerprint.of_file(path)} for path in args.score]
    out = Path(args.out or keys[0].parent)
    runs = {"features": args.folder or keys[0].parent}
    claim.write(out, "rubric", result, [section], "Features and neurons, rated by hand", runs, origin)
    return 0
