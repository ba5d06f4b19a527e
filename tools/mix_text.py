"""Mix the text that a language model is trained on: the share of each kind, in tokens, is chosen.

    python tools/mix_text.py A.jsonl.xz B.jsonl.xz --out MIX --tokens 106e6
    monosem lm train --text MIX/train.jsonl --tokenizer MIX/tokenizer.json --holdout 0 --out LM
    monosem lm evaluate --model LM --text MIX/held_out.jsonl --split all

A recipe (``tools/mixture.json``) gives each group of sources, named by patterns of which the first that fits counts,
its share of the tokens. No document is taken twice, and of documents that differ in white space only one. Those held
out are chosen first, of every source, before a tokenizer sees any text. The order of the result is a shuffle that
depends on the seed and the texts alone. Texts are read four times, one document at a time, and never held.

Writes ``train.jsonl``, ``held_out.jsonl``, ``tokenizer.json`` (unless one is given) and ``mixture.json``: the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from monosem.data import files
from monosem.data.folder_lock import folder_lock
from monosem.data.jsonl import read_jsonl
from monosem.data.text import Document
from monosem.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer

RECIPE = Path(__file__).with_name("mixture.json")
BUCKET = 1 << 26  # bytes that are put in order at one time
TRAIN, HELD_OUT = "train", "held_out"


@dataclass(frozen=True)
class Group:
    """Sources that share one share of the tokens, each in proportion to what there is of it."""

    name: str
    share: float
    sources: tuple[str, ...]


@dataclass
class Listed:
    """One distinct document: where it stands among all that are read, and what decides about it."""

    place: int
    source: str
    size: int
    key: bytes  # of its text and the seed: the order of choice
    tokens: int = 0
    part: str | None = None


def read_recipe(path: Path) -> list[Group]:
    """The groups of a recipe.

    Raises:
        ValueError: it is no recipe, or its shares are not those of a whole.
    """
    try:
        groups = [
            Group(g["group"], float(g["share"]), tuple(g["sources"])) for g in json.loads(path.read_text("utf-8"))
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'recipe: {str(path)!r} is not one ({error!r}); wanted [{{"group": ..., "share": ..., "sources": [...]}}]'
        ) from None
    total = math.fsum(g.share for g in groups)
    if abs(total - 1) > 1e-6 or min(g.share for g in groups) <= 0:
        shares = ", ".join(f"{g.name} {g.share:g}" for g in groups)
        raise ValueError(f"recipe: the shares are {shares}, {total:g} in all; wanted shares above 0 that make 1")
    if len({g.name for g in groups}) < len(groups):
        raise ValueError(f"recipe: {str(path)!r} names a group twice; wanted each once")
    return groups


def group_of(source: str, groups: Sequence[Group]) -> Group:
    """The first group that a source fits.

    Raises:
        ValueError: none.
    """
    for group in groups:
        if any(fnmatchcase(source, pattern) for pattern in group.sources):
            return group
    raise ValueError(f"recipe: the source {source!r} fits no group; wanted every source in one. Add a group, or '*'.")


def everything(texts: Sequence[Path]) -> Iterator[Document]:
    for path in texts:
        yield from read_jsonl(path)


def survey(texts: Sequence[Path], seed: int) -> list[Listed]:
    """Each distinct document, in the order of choice."""
    distinct: dict[bytes, Listed] = {}
    for place, document in enumerate(everything(texts)):
        plain = " ".join(document.text.split()).encode("utf-8")
        key = hashlib.blake2b(plain, digest_size=16, key=seed.to_bytes(8, "big")).digest()
        if plain and key not in distinct:
            distinct[key] = Listed(place, document.source, len(document.text.encode("utf-8")), key)
    return sorted(distinct.values(), key=lambda f: f.key)


def by_source(documents: Iterable[Listed]) -> dict[str, list[Listed]]:
    sources: dict[str, list[Listed]] = {}
    for f in documents:
        sources.setdefault(f.source, []).append(f)
    return dict(sorted(sources.items()))


def fitting(documents: Iterable[Listed], capacity: float, measure: str) -> list[Listed]:
    """Documents in order while they fit; one that is too large is skipped."""
    taken = []
    for f in documents:
        if (size := getattr(f, measure)) <= capacity:
            taken.append(f)
            capacity -= size
    return taken


def held_apart(documents: Iterable[Listed], share: float) -> set[int]:
    """Places of what may be held out: a share of each source's bytes, at least one document of two."""
    places: set[int] = set()
    for of in by_source(documents).values():
        chosen = fitting(of, share * sum(f.size for f in of), "size")
        if not chosen and share and len(of) > 1:
            chosen = [min(of, key=lambda f: f.size)]
        places.update(f.place for f in chosen)
    return places


def sampled(documents: Iterable[Listed], groups: Sequence[Group], size: float) -> set[int]:
    """Places of what the tokenizer is trained on: about ``size`` bytes, by the shares, as far as there is text."""
    sources = by_source(documents)
    capacity = _capacities({s: sum(f.size for f in of) for s, of in sources.items()}, groups, size)
    return {f.place for s, of in sources.items() for f in fitting(of, capacity[s], "size")}


def _capacities(there: dict[str, int], groups: Sequence[Group], total: float) -> dict[str, float]:
    """Share of each source in a total: its group's share, in proportion to the size of the source."""
    of_group = {g.name: 0 for g in groups}
    for source, size in there.items():
        of_group[group_of(source, groups).name] += size
    capacities = {}
    for source, size in there.items():
        group = group_of(source, groups)
        capacities[source] = group.share * total * size / max(1, of_group[group.name])
    return capacities


def choose(documents: Sequence[Listed], apart: set[int], groups: Sequence[Group], tokens: float | None, holdout: float):
    """Mark the documents for training and those held out.

    Raises:
        ValueError: a group has too little text for its share of ``tokens``.
    """
    free = [f for f in documents if f.place not in apart]
    there = {s: sum(f.tokens for f in of) for s, of in by_source(free).items()}
    available = {g.name: 0.0 for g in groups}
    for source, n in there.items():
        available[group_of(source, groups).name] += n
    scarcest = min(groups, key=lambda g: available[g.name] / g.share)
    limit = available[scarcest.name] / scarcest.share / (1 - holdout)
    if tokens is None:
        tokens = limit
    if not 0 < tokens <= limit:
        raise ValueError(
            f"tokens: got {tokens:,.0f}; wanted more than 0 and at most {limit:,.0f}, of which the group "
            f"{scarcest.name!r} makes {scarcest.share:.2%} with all its {available[scarcest.name]:,.0f} tokens. Ask "
            "for fewer, lower its share in the recipe, or add text."
        )
    for part, total, candidates in (
        (TRAIN, tokens * (1 - holdout), free),
        (HELD_OUT, tokens * holdout, [f for f in documents if f.place in apart]),
    ):
        capacity = _capacities(there, groups, total)
        for source, of in by_source(candidates).items():
            chosen = fitting(of, capacity.get(source, 0), "tokens")
            if not chosen and part == HELD_OUT:
                chosen = [min(of, key=lambda f: f.tokens)]  # every source is measured
            for f in chosen:
                f.part = part


def write_parts(texts: Sequence[Path], documents: Iterable[Listed], out: Path, seed: int) -> None:
    """``train.jsonl`` and ``held_out.jsonl``, in an order of their own: sorted by a digest, a bucket at a time."""
    chosen = {f.place: f for f in documents if f.part}
    buckets = max(1, math.ceil(sum(f.size for f in chosen.values()) / BUCKET))
    scratch = Path(tempfile.mkdtemp(prefix=".mix_text-", dir=out))
    try:
        open_files = {(p, b): (scratch / f"{p}-{b}").open("wb") for p in (TRAIN, HELD_OUT) for b in range(buckets)}
        for place, document in enumerate(everything(texts)):
            if f := chosen.get(place):
                order = hashlib.blake2b(f.key, digest_size=8, key=seed.to_bytes(8, "big")).hexdigest()
                line = json.dumps({"source": document.source, "text": document.text}, ensure_ascii=False)
                bucket = int(order, 16) * buckets >> 64
                open_files[f.part, bucket].write(f"{order}\t{line}\n".encode())
        for opened in open_files.values():
            opened.close()

        def writer(part: str):
            def write(path: Path) -> None:
                with path.open("wb") as whole:
                    for bucket in range(buckets):
                        lines = sorted((scratch / f"{part}-{bucket}").read_bytes().split(b"\n")[:-1])
                        whole.writelines(line[17:] + b"\n" for line in lines)

            return write

        files.write_together({out / f"{part}.jsonl": writer(part) for part in (TRAIN, HELD_OUT)})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def figures(documents: Iterable[Listed], groups: Sequence[Group]) -> list[dict]:
    """A row for each source, by group: documents and tokens of what there is and of either part."""
    sources = by_source(documents)
    rows = []
    for group in groups:
        for source, of in sources.items():
            if group_of(source, groups) is group:
                row = {"group": group.name, "source": source, "distinct": len(of), "tokens": sum(f.tokens for f in of)}
                for part in (TRAIN, HELD_OUT):
                    mine = [f for f in of if f.part == part]
                    row[part] = {"documents": len(mine), "tokens": sum(f.tokens for f in mine)}
                rows.append(row)
    return rows


def table(rows: Sequence[dict]) -> str:
    """The figures in columns, each group with its sum."""
    total = max(1, sum(r[TRAIN]["tokens"] for r in rows))
    lines = [f"{'group':14} {'source':22} {'there':>12} {'train':>12} {'share':>8} {'held out':>10}"]

    def line(group: str, source: str, of: Sequence[dict]) -> None:
        train, held = (sum(r[p]["tokens"] for r in of) for p in (TRAIN, HELD_OUT))
        there = sum(r["tokens"] for r in of)
        lines.append(f"{group:14} {source:22} {there:12,} {train:12,} {train / total:8.3%} {held:10,}")

    for group in dict.fromkeys(r["group"] for r in rows):
        members = [r for r in rows if r["group"] == group]
        for row in members:
            line(group, row["source"], [row])
        line(group, "= all of the group", members)
    line("all", "", rows)
    return "\n".join(lines)


def mix(
    texts: Sequence[Path],
    out: Path,
    groups: Sequence[Group],
    *,
    tokens: float | None,
    seed: int,
    holdout: float,
    d_vocab: int,
    tokenizer: Path | None,
    sample: float,
) -> list[dict]:
    """Make the mixture in ``out``; the rows of its table."""
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout: got {holdout}; wanted a fraction in [0, 1)")
    documents = survey(texts, seed)
    if not documents:
        raise ValueError(f"text: {', '.join(map(str, texts))}: no document; wanted at least one with a 'text'")
    apart = held_apart(documents, holdout)
    path = tokenizer or out / "tokenizer.json"
    if not tokenizer:
        places = sampled((f for f in documents if f.place not in apart), groups, sample)
        seen = (d.text for place, d in enumerate(everything(texts)) if place in places)
        files.write_text(path, train_tokenizer(seen, d_vocab).to_str())
    at = {f.place: f for f in documents}
    order: list[Listed] = []

    def distinct() -> Iterator[Document]:
        for place, document in enumerate(everything(texts)):
            if place in at:
                order.append(at[place])
                yield document

    for number, ids in enumerate(encode_documents(load_tokenizer(path), distinct())):
        order[number].tokens = len(ids)
    choose(documents, apart, groups, tokens, holdout)
    write_parts(texts, documents, out, seed)
    rows = figures(documents, groups)
    about = {"texts": [p.name for p in texts], "seed": seed, "holdout": holdout, "tokens": tokens}
    shares = {g.name: {"share": g.share, "sources": g.sources} for g in groups}
    record = about | {"tokenizer": str(tokenizer or path.name), "recipe": shares, "sources": rows}
    files.write_text(out / "mixture.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("text", nargs="+", type=Path, help="JSON lines of source and text; plain, .gz or .xz")
    options.add_argument("--out", type=Path, required=True, help="folder to write to")
    options.add_argument("--recipe", type=Path, default=RECIPE, help="groups and their shares (default: mixture.json)")
    options.add_argument("--tokens", type=float, help="tokens in all (default: as many as the recipe allows)")
    options.add_argument("--seed", type=int, default=0, help="of the choice and of the order")
    options.add_argument("--holdout", type=float, default=0.02, help="share of the tokens that is held out")
    options.add_argument("--d-vocab", type=int, default=8192, help="entries of the tokenizer that is trained")
    options.add_argument("--tokenizer", type=Path, help="an existing tokenizer.json (default: train one)")
    options.add_argument("--tokenizer-megabytes", type=float, default=64, help="text that the tokenizer is trained on")
    args = options.parse_args(argv)
    try:
        with folder_lock(args.out):
            rows = mix(
                args.text,
                args.out,
                read_recipe(args.recipe),
                tokens=args.tokens,
                seed=args.seed,
                holdout=args.holdout,
                d_vocab=args.d_vocab,
                tokenizer=args.tokenizer,
                sample=args.tokenizer_megabytes * 1e6,
            )
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"mix_text: {error}")
    print(table(rows))


if __name__ == "__main__":
    main()
