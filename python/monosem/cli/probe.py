"""``monosem probe``: how well a few features tell labelled texts apart."""

from __future__ import annotations

import argparse
from typing import Any

from monosem.cli import claim, options, provenance, run_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "k-sparse probing: for each label of a text, choose the k features whose mean differs most between its texts "
        "and the rest, and fit a logistic regression on them; its accuracy and AUC on test texts stand beside those of "
        "k neurons, of all neurons, and of the more frequent class. A label is the source of a document, or the column "
        "'label' of a file without sources. Prints a table and writes probing.json and probing.html. Needs "
        "scikit-learn: pip install 'monosem[analysis]'."
    )
    parser.add_argument("folder", help=options.FOLDER)
    options.add_sites(parser)
    options.add_text(parser)
    options.add_split(parser, "all")
    parser.add_argument(
        "--sae-probes",
        nargs="*",
        metavar="TASK",
        help="the tasks of the package sae-probes in place of a text (pip install --no-deps sae-probes), or only these",
    )
    parser.add_argument(
        "--labels", nargs="+", metavar="LABEL", help="tell these labels from the rest (default: each label)"
    )
    parser.add_argument("--k", nargs="+", type=int, metavar="K", help="numbers of features (default: 1 2 5)")
    parser.add_argument(
        "--pool",
        default="mean",
        metavar="HOW",
        help="over the tokens of a text: mean, max, or last, the last token alone, as sae-probes does",
    )
    parser.add_argument("--texts", type=int, default=500, metavar="N", help="most texts of each label")
    what = "tokens of a text, BOS included; longer ones are cut (default: 128, or fewer where the model reads no more)"
    parser.add_argument("--length", type=int, metavar="N", help=what)
    parser.add_argument("--test", type=float, default=0.2, metavar="SHARE", help="share of the texts that is tested on")
    parser.add_argument(
        "--unbalanced", action="store_true", help="take all texts of the rest (default: as many as of the label)"
    )
    parser.add_argument(
        "--all-features", action="store_true", help="also probe on all features, as sparse as they are (slower)"
    )
    options.add_skipped(parser, norm=options.AS_TRAINED)
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample and of its division")
    parser.add_argument("--out", help="output folder (default: the dictionary's)")
    parser.add_argument("--device", default="cpu", help="where the dictionary runs: cpu or cuda")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    from monosem.analysis.probing import probe, section

    package = args.sae_probes is not None
    if package:
        options.refuse(args, ("text", "split"), "beside --sae-probes")
        args.text = "sae-probes"  # that of the run is not looked for
    out = claim.folder_of(args, args.folder)
    subject = run_inputs.subject(args, args.folder)
    if package:
        args.text, texts = None, _of_package(args.sae_probes)
    else:
        texts, args.text = _labelled(args.text, args.split)
    result = probe(
        subject.sae,
        subject.model,
        subject.hook_name,
        texts,
        ks=args.k,
        pool_by=args.pool,
        labels=args.labels,
        per_label=args.texts,
        length=args.length,
        test=args.test,
        balanced=not args.unbalanced,
        all_features=args.all_features,
        seed=args.seed,
        skip_positions=args.skip_positions,
        skip_tokens=args.skip_tokens,
        skip_norm=args.skip_norm,
        progress=not args.quiet,
    )
    own = {"sae_probes": list(texts)} if package else {}
    origin = provenance.of(args, {"": (args.folder, subject)}) | own
    title = f"Probes on model {subject.model.name}"
    claim.write(out, "probing", result, [section], title, {"": args.folder}, origin)
    return 0


def _labelled(text: str, split: str) -> tuple[Any, str]:
    """The documents of a text by source, or by the column ``label`` where it has no sources; and its full name."""
    from dataclasses import replace

    from monosem.data.records import DEFAULT_SOURCE, SOURCE
    from monosem.data.sample import stream_documents
    from monosem.data.text_spec import parse

    spec = parse(text)
    if spec.source == SOURCE and all(d.source == DEFAULT_SOURCE for d in stream_documents(text, split)):
        spec = replace(spec, source="label")
    return stream_documents(str(spec), split), str(spec)


def _of_package(names: list[str]) -> dict[str, Any]:
    from monosem.data.sae_probes import sae_probes
    from monosem.data.sample import stream_documents

    return {name: stream_documents(str(spec), "all") for name, spec in sae_probes(names).items()}
