"""``monosem steer``: change features while the model writes or reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monosem.cli import claim, options, provenance, run_inputs
from monosem.cli.help import RawHelp

_DESCRIPTION = """\
Splice a dictionary into its model and change features.

  monosem steer RUN --pin base64 --prompt "1,2,3,4,5,6,7,8,9,10"   hold the base64 feature at its maximum
  monosem steer RUN --pin 123=2x --ablate 77 --add 5=-0.5x         several at once
  monosem steer RUN --ablate base64 --read                         loss without it, by source
  monosem steer RUN                                                the evidence: does a label's feature write its text?

FEATURE is a number or a label (then the feature that stands for it is looked up): any source of the text is one, by its
name, and so are Arabic, Hebrew, DNA and base64 where sources are named ar_…, he_…, dna and base64.
STRENGTH is a multiple of the largest activation seen (2x) or an activation (7.5). The rest of the activation, which no
feature explains, stays as it is, unless --error drop. Multiples and labels need a pass over text; `monosem index RUN`
makes it once. A label with a proxy (Arabic, Hebrew, DNA, base64) is looked up in one more pass at each call.

Without any change it measures the claim of the paper, and writes steering.json and steering.html."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.formatter_class = RawHelp
    parser.add_argument("folder", help="a dictionary written by `monosem train`; or neurons:A, the neurons of a model")
    changes = parser.add_argument_group("changes")
    changes.add_argument(
        "--pin",
        "--feature",
        action="append",
        metavar="FEATURE[=STRENGTH]",
        help="set the activation on every token (no strength: 1x)",
    )
    changes.add_argument(
        "--add",
        action="append",
        metavar="FEATURE[=STRENGTH]",
        help="add to the activation on every token; may be negative",
    )
    changes.add_argument("--ablate", action="append", metavar="FEATURE", help="set the activation to 0 on every token")
    changes.add_argument(
        "--error",
        choices=("keep", "drop"),
        default="keep",
        help="keep or drop the part of the activation that the dictionary does not explain",
    )
    how = parser.add_argument_group("writing")
    how.add_argument(
        "--prompt",
        nargs="+",
        metavar="TEXT",
        help="texts to continue (default: the paper's, 1,2,3,4,5,6,7,8,9,10; for the evidence also one in prose)",
    )
    how.add_argument("--samples", type=int, default=10, help="number of texts, each with and without the changes")
    how.add_argument("--length", type=int, default=48, help="tokens to write")
    how.add_argument("--temperature", type=float, default=1.0, help="of sampling; 0 takes the most likely token")
    how.add_argument("--seed", type=int, default=0, help="sample i uses seed + i, with and without")
    reading = parser.add_argument_group("reading")
    reading.add_argument(
        "--read",
        action="store_true",
        help="do not write, but measure the change of each token's log-likelihood, by source",
    )
    what = parser.add_argument_group("the claim")
    what.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="labels to steer by (default: base64 and Arabic where the text has them, else the two followed best)",
    )
    what.add_argument("--trials", type=int, default=5, help="samples that choose the strength, with other seeds")
    text = parser.add_argument_group("inputs and output")
    options.add_sites(text)
    options.add_reading(text, "all")
    text.add_argument(
        "--tokens", type=int, default=200_000, metavar="N", help="tokens to read for the pass over text, or for --read"
    )
    text.add_argument("--skip-positions", type=int, default=1, help="positions left unchanged at the start; 1 is BOS")
    text.add_argument(
        "--out", help="folder of the JSON and the page (default: the dictionary's, for the evidence only)"
    )
    text.add_argument("--device", default="cpu", help="where the dictionary runs: cpu or cuda")
    text.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    subject = run_inputs.subject(args, args.folder)
    subject.model.check_written(subject.hook_name)
    if not (args.pin or args.add or args.ablate):
        if args.read:
            raise ValueError("read: there is nothing to change; add --pin, --add or --ablate")
        return _evidence(args, subject)
    looked_up = _LookUp(args, subject)
    edits = looked_up.edits()
    from monosem.analysis.steering import Steering

    steering = Steering(subject.sae, edits, error=args.error, skip_positions=args.skip_positions)
    print(", ".join(map(str, edits)) + f"; error term: {args.error}\n")
    return _read(args, subject, steering) if args.read else _write(args, subject, steering)


class _LookUp:
    """Edits of the command line; the index that labels and multiples need is opened on first use."""

    def __init__(self, args: argparse.Namespace, subject: Any) -> None:
        self.args, self.subject, self._index = args, subject, None

    @property
    def index(self) -> Any:
        from monosem.analysis.evidence.open_or_build import index_of
        from monosem.analysis.index.build import read_meta

        if self._index is None:
            a = self.args
            folder = Path(a.folder) / "index"
            if not a.read and (folder / "index.json").is_file():
                run_inputs.check_index(a, read_meta(folder), folder, ("text", "split", "context"))
            self._index = index_of(self.subject, a.folder, a.text, a.split, a.tokens, not a.quiet, a.context)
        return self._index

    def edits(self) -> list[Any]:
        from monosem.analysis.steering import parse_edit

        typed = [(kind, spec) for kind in ("pin", "add", "ablate") for spec in getattr(self.args, kind) or []]
        names = self._names([spec.partition("=")[0].strip() for _, spec in typed])
        return [parse_edit(spec, kind, self._largest, names) for kind, spec in typed]

    def _largest(self, feature: int) -> float:
        if feature >= self.subject.sae.cfg.d_sae:
            raise ValueError(f"feature: got {feature}; wanted 0 to {self.subject.sae.cfg.d_sae - 1}")
        return float(self.index.maximum[feature])

    def _names(self, typed: list[str]) -> dict[str, int]:
        """The features of the names that are labels."""
        from monosem.analysis.sources import all_groups, named

        words = [word for word in dict.fromkeys(typed) if not word.isdigit()]
        if not words:
            return {}
        groups = all_groups(self.index.sources)
        asked = {word: named(word, groups, "feature") for word in words}
        features = self.features({label: groups[label] for label in asked.values()})
        for word, label in asked.items():
            if label not in features:
                raise ValueError(
                    f"feature: no feature follows {word!r} on this text: none fires more on it than elsewhere, or all "
                    "of the text is of it; name a feature by its number"
                )
        return {word: features[label] for word, label in asked.items()}

    def features(self, groups: dict[str, list[int]]) -> dict[str, int]:
        """The feature of each label that one follows, on the text that the index read."""
        from monosem.analysis.evidence.proxies import label_features

        return label_features(
            self.subject,
            self.index.rows,
            groups,
            self.index.moments,
            tokens=self.index.tokens,
            skip_positions=self.args.skip_positions,
            progress=not self.args.quiet,
        )


def _write(args: argparse.Namespace, subject: Any, steering: Any) -> int:
    from tqdm import tqdm

    from monosem.analysis.steering import side_by_side

    prompts = args.prompt or ["1,2,3,4,5,6,7,8,9,10"]
    samples = {}
    total = 2 * len(prompts) * args.samples * args.length
    with tqdm(total=total, unit="tok", desc="writing", disable=args.quiet) as bar:
        for prompt in prompts:
            samples[prompt] = side_by_side(
                subject.model,
                subject.hook_name,
                steering,
                prompt,
                samples=args.samples,
                length=args.length,
                temperature=args.temperature,
                seed=args.seed,
                progress=bar.update,
            )
    for prompt, pairs in samples.items():
        print(f"after {_line(prompt)!r}")
        for s in pairs:
            print(f"  seed {s.seed}\n    unsteered {_line(s.unsteered_text)}\n    steered   {_line(s.steered_text)}")
    if args.out:
        from dataclasses import asdict

        record = {
            "model": subject.model.name,
            "hook_name": subject.hook_name,
            "error": args.error,
            "edits": [asdict(e) for e in steering.edits],
            "samples": {prompt: [asdict(s) for s in pairs] for prompt, pairs in samples.items()},
        }
        _save(args, subject, "steered", record)
    return 0


def _read(args: argparse.Namespace, subject: Any, steering: Any) -> int:
    from monosem.analysis.inputs import load_rows
    from monosem.analysis.steered_reading import reading

    rows = load_rows(subject.model, args.text, args.split, args.context)
    result = reading(subject, rows, steering, tokens=args.tokens, progress=not args.quiet)
    print(result.table())
    if args.out:
        _save(args, subject, "steered_reading", result.to_dict())
    return 0


def _evidence(args: argparse.Namespace, subject: Any) -> int:
    from monosem.analysis.evidence import steer, steer_judges, steer_page

    out = claim.folder_of(args, args.folder)
    looked_up = _LookUp(args, subject)
    index = looked_up.index
    labels = steer.labels_of(index, args.labels)
    result = steer.measure(
        subject,
        index,
        judges=steer_judges.proxy_judges(subject.model, index.rows, labels),
        groups=labels,
        features=looked_up.features(labels),
        prompts=args.prompt or steer.PROMPTS,
        samples=args.samples,
        length=args.length,
        temperature=args.temperature,
        error=args.error,
        trials=args.trials,
        skip_positions=args.skip_positions,
        seed=args.seed,
        judged=steer.JUDGED,
        progress=not args.quiet,
    )
    origin = provenance.of(args, {"": (args.folder, subject)})
    claim.write(out, "steering", result, [steer_page.section], "Features cause text", {"": args.folder}, origin)
    return 0


def _save(args: argparse.Namespace, subject: Any, name: str, record: dict[str, Any]) -> None:
    from monosem.data import sealed

    path = Path(args.out) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    sealed.write(path, record | {"made_from": provenance.of(args, {"": (args.folder, subject)})}, indent=2)
    print(f"\nwritten: {path}")


def _line(text: str) -> str:
    from monosem.analysis.evidence import token_html

    return token_html.one_line(text)
