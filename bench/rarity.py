"""Features against neurons by how rare a kind of text is to the language model.

For each share of the documents of the rare kinds (Arabic, Hebrew, DNA, base64) that is kept: the text thinned so, a
language model by ``monosem lm train``, a TopK dictionary on it by ``monosem train``, and ``monosem proxies`` on its own
text and on the unthinned one, which is the same for all. Models and dictionaries differ in nothing else. What is in the
folder of runs is not made again. Prints a table and writes ``bench/results/rarity.json``.

    python bench/rarity.py --text MIX/train.jsonl --tokenizer MIX/tokenizer.json --runs FOLDER [--out FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import by_command
import resumable

from monosem.data import files
from monosem.data.jsonl import read_jsonl
from monosem.data.text import Document
from monosem.data.text_files import SHIPPED, sample_path
from monosem.data.tokenizer import encode_documents, load_tokenizer

KINDS = {"Arabic": ("ar_*", "Arabic"), "Hebrew": ("he_*", "Hebrew"), "DNA": ("dna*", "DNA"), "base64": ("base64*",)}
SIZES = ("megabytes", "tokenizer_sha256", "d_sae", "k", "steps", "tokens")
OF_UNIT = ("index", "correlation", "correlation_interval", "specificity", "sensitivity", "density")


def kind_of(source: str) -> str | None:
    """Which of the rare kinds a source is of."""
    return next((kind for kind, names in KINDS.items() if any(fnmatchcase(source, n) for n in names)), None)


def thinned(text: str, kept: float, size: float) -> Iterator[Document]:
    """The documents of a text up to ``size`` bytes, with the share ``kept`` of those of the rare kinds.

    Which are kept depends on their text alone: those of a smaller share are among those of a larger one.
    """
    read = 0
    for document in read_jsonl(sample_path(text) if text in SHIPPED else Path(text)):
        raw = document.text.encode("utf-8")
        read += len(raw)
        if read > size:
            return
        place = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big") / 2**64
        if kind_of(document.source) is None or place < kept:
            yield document


def write_text(file: Path, text: str, kept: float, size: float) -> Path:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            json.dumps({"source": d.source, "text": d.text}, ensure_ascii=False) for d in thinned(text, kept, size)
        )
        files.write_text(file, "".join(f"{line}\n" for line in lines))
    return file


def shares(file: Path, lm: Path) -> dict[str, float]:
    """The share of each rare kind, in tokens of the language model."""
    tokens: Counter[str | None] = Counter()
    documents = list(read_jsonl(file))
    for document, ids in zip(
        documents, encode_documents(load_tokenizer(lm / "tokenizer.json"), documents), strict=True
    ):
        tokens[kind_of(document.source)] += len(ids)
    return {kind: tokens[kind] / tokens.total() for kind in KINDS}


def measured(kept: float, args: argparse.Namespace) -> dict[str, Any]:
    """The best feature and the best neuron of each rare kind, on the model's own text and on the common one."""
    size = args.megabytes * 1e6
    common = write_text(args.runs / "1.jsonl", args.text, 1.0, size)
    own = write_text(args.runs / f"{kept:g}.jsonl", args.text, kept, size)
    folder = args.runs / f"{kept:g}"
    tokenizer = {"tokenizer": args.tokenizer} if args.tokenizer else {}
    head = {"holdout": 0, "head_dtype": "bfloat16", "seed": 11}
    lm = by_command.made(folder / "lm" / "model.safetensors", "lm train", text=own, **tokenizer, **head)
    length = {"steps": args.steps, "log_every": min(50, args.steps), "seed": 0}
    run = by_command.train(folder / "sae", kind="topk", d_sae=args.d_sae, k=args.k, model=lm, text=own, **length)
    result: dict[str, Any] = {"kept": kept, "shares": shares(own, lm)}
    for name, text in (("own", own), ("common", common)):
        # The share of 1 has one text: read once.
        file = folder / f"proxies-{'own' if text == own else name}" / "proxies.json"
        found = by_command.read(file, "proxies", run, text=text, tokens=args.tokens)
        result[name] = {
            "tokens": found["tokens"],
            "proxies": [_brief(p) for p in found["proxies"] if p["name"] in KINDS],
        }
    return result


def _brief(proxy: dict[str, Any]) -> dict[str, Any]:
    units = {unit: proxy[unit] and {name: proxy[unit][name] for name in OF_UNIT} for unit in ("feature", "neuron")}
    return {"name": proxy["name"], "base_rate": proxy["base_rate"]} | units


def table(rows: list[dict[str, Any]]) -> str:
    """Pearson of the best feature and the best neuron, on each model's own text."""
    lines = [f"| share of the tokens | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for row in rows:
        cells = {
            p["name"]: " / ".join(_correlation(p[unit]) for unit in ("feature", "neuron"))
            for p in row["own"]["proxies"]
        }
        of = row["shares"].values()
        lines.append(f"| {min(of):.2%} to {max(of):.2%} | {' | '.join(cells.get(kind, 'none') for kind in KINDS)} |")
    return "\n".join(lines)


def _correlation(unit: dict[str, Any] | None) -> str:
    return "none" if unit is None else f"{unit['correlation']:.2f}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="sample", help="the committed runs read MIX/train.jsonl (default: shipped)")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json for all models (default: one of each text)")
    parser.add_argument("--runs", type=Path, required=True, help="folder for texts, models, dictionaries and readings")
    parser.add_argument("--kept", type=float, nargs="+", default=[1.0, 0.25, 0.1], help="shares of the rare documents")
    parser.add_argument("--megabytes", type=float, default=80.0, help="of the text (default: %(default)s)")
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2500, help="of 4,096 activations each (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="read for the proxies")
    parser.add_argument("--out", type=Path, default=resumable.HERE / "results" / "rarity.json")
    args = parser.parse_args(argv)
    args.tokenizer_sha256 = args.tokenizer and hashlib.sha256(args.tokenizer.read_bytes()).hexdigest()[:16]
    made_with = by_command.made_with(args, SIZES)
    rows = [measured(kept, args) for kept in args.kept]
    about = by_command.about("features against neurons by how rare a kind of text is", made_with)
    files.write_text(args.out, json.dumps(about | {"rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
