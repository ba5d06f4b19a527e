"""The mixture: shares in tokens, nothing twice, nothing held out that is trained on, the same bytes from one seed."""

import json
import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import mix_text

from monosem.data.jsonl import read_jsonl
from monosem.data.tokenizer import encode_documents, load_tokenizer

WORDS = {
    "en_a": "the quick brown fox jumps",
    "en_b": "over a lazy dog",
    "ar_x": "سلام على كل",
    "raw_z": "{ } 0 1 2 [ ]",
}
DOCUMENTS = {"en_a": 300, "en_b": 150, "ar_x": 200, "raw_z": 120}
RECIPE = [
    {"group": "english", "share": 0.85, "sources": ["en_*"]},
    {"group": "arabic", "share": 0.05, "sources": ["ar_*"]},
    {"group": "rest", "share": 0.1, "sources": ["*"]},
]


def written(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder, chooser = tmp_path_factory.mktemp("texts"), random.Random(0)
    records = [
        {"source": source, "text": " ".join(chooser.choices(words.split(), k=chooser.randint(20, 60)))}
        for source, words in WORDS.items()
        for _ in range(DOCUMENTS[source])
    ]
    chooser.shuffle(records)
    again = [{"source": r["source"], "text": "  " + r["text"].replace(" ", "\n")} for r in records[:100]]
    return [
        written(folder / "a.jsonl", records),
        written(folder / "b.jsonl", [*again, {"text": " ", "source": "en_a"}]),
    ]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    path.write_text(json.dumps(RECIPE))
    return path


def run(texts, recipe, out, *more):
    mix_text.main([*map(str, texts), "--recipe", str(recipe), "--out", str(out), "--d-vocab", "300", *more])
    return out


@pytest.fixture(scope="module")
def mixed(texts, recipe, tmp_path_factory):
    return run(texts, recipe, tmp_path_factory.mktemp("mix"), "--tokens", "9000", "--holdout", "0.1")


def parts(folder):
    return [list(read_jsonl(folder / f"{part}.jsonl")) for part in ("train", "held_out")]


def plain(document):
    return " ".join(document.text.split())


def test_shares_are_those_of_the_tokens(mixed):
    tokenizer = load_tokenizer(mixed / "tokenizer.json")
    for part, total in zip(parts(mixed), (8100, 900), strict=True):
        counts = {}
        for document, ids in zip(part, encode_documents(tokenizer, part), strict=True):
            counts[document.source] = counts.get(document.source, 0) + len(ids)
        longest = 60 * 4  # a source is at most one document short
        for group, sources in (("en", ("en_a", "en_b")), ("ar", ("ar_x",)), ("raw", ("raw_z",))):
            share = {"en": 0.85, "ar": 0.05, "raw": 0.1}[group]
            got = sum(counts[s] for s in sources)
            assert share * total - longest * len(sources) < got <= share * total + longest, (group, got)
        listed = json.loads((mixed / "mixture.json").read_text())["sources"]
        name = "train" if total == 8100 else "held_out"
        assert {r["source"]: r[name]["tokens"] for r in listed} == counts


def test_no_document_is_repeated_or_in_both_parts(mixed, texts):
    train, held_out = parts(mixed)
    both = [plain(d) for d in train + held_out]
    assert len(set(both)) == len(both) and "" not in both
    assert {d.source for d in held_out} == set(WORDS)
    given = {(d.source, d.text) for path in texts for d in read_jsonl(path)}
    assert {(d.source, d.text) for d in train + held_out} <= given


def test_held_out_documents_do_not_depend_on_the_size(mixed, texts, recipe, tmp_path):
    """Of a larger or smaller mixture of one seed, none trains on the candidates of another."""
    smaller = run(texts, recipe, tmp_path, "--tokens", "3000", "--holdout", "0.1")
    trained = {plain(d) for folder in (mixed, smaller) for d in parts(folder)[0]}
    assert not trained & {plain(d) for folder in (mixed, smaller) for d in parts(folder)[1]}


def test_same_seed_same_bytes_and_another_seed_another_order(mixed, texts, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(mix_text, "BUCKET", 5000)  # put in order in pieces
    more = ("--tokens", "9000", "--holdout", "0.1")
    again = run([texts[0], texts[1]], recipe, tmp_path / "again", *more)
    for name in ("train.jsonl", "held_out.jsonl", "tokenizer.json", "mixture.json"):
        assert (again / name).read_bytes() == (mixed / name).read_bytes(), name
    assert sorted(p.name for p in again.iterdir()) == [
        "held_out.jsonl",
        "mixture.json",
        "tokenizer.json",
        "train.jsonl",
    ]
    other = run(texts, recipe, tmp_path / "other", *more, "--seed", "1", "--tokenizer", str(mixed / "tokenizer.json"))
    assert parts(other)[0] != parts(mixed)[0] and not (other / "tokenizer.json").exists()


def test_order_is_mixed(mixed):
    sources = [d.source for d in parts(mixed)[0] if d.source.startswith("en_")]
    assert sum(a != b for a, b in pairwise(sources)) > len(sources) / 4


def test_the_default_size_is_the_largest_that_the_recipe_allows(texts, recipe, tmp_path, mixed, capsys):
    whole = run(texts, recipe, tmp_path, "--tokenizer", str(mixed / "tokenizer.json"), "--holdout", "0")
    assert "= all of the group" in capsys.readouterr().out and not (whole / "held_out.jsonl").read_text()
    train = parts(whole)[0]
    english = {plain(d) for d in train if d.source.startswith("en_")}
    assert len(english) == 450  # all there is of the group that limits
    with pytest.raises(SystemExit, match=r"tokens: got 90,000; wanted .* at most .* 'english' makes 85.00% with all"):
        run(texts, recipe, tmp_path / "more", "--tokens", "90000", "--tokenizer", str(mixed / "tokenizer.json"))
    assert not (tmp_path / "more" / "train.jsonl").exists()


def test_a_bad_recipe_is_refused(texts, tmp_path):
    for groups, message in (
        ([{"group": "a", "share": 0.5, "sources": ["*"]}], "the shares are a 0.5, 0.5 in all; wanted shares above 0"),
        ([{"group": "a", "share": 1, "sources": ["en_*"]}], "the source '.*' fits no group"),
        ([{"group": "a", "sources": ["*"]}], "is not one .KeyError"),
        (
            [{"group": "a", "share": 0.5, "sources": ["a"]}, {"group": "a", "share": 0.5, "sources": ["*"]}],
            "a group twice",
        ),
    ):
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(groups))
        with pytest.raises(SystemExit, match=f"mix_text: recipe: .*{message}"):
            run(texts, path, tmp_path / "out")


def test_the_recipe_of_the_shipped_models():
    groups = mix_text.read_recipe(mix_text.RECIPE)
    shares = {g.name: g.share for g in groups}
    assert all(0.003 <= shares[name] <= 0.008 for name in ("arabic", "hebrew", "dna", "base64"))
    assert sum(shares[name] for name in ("prose", "documentation", "code")) == pytest.approx(0.8)
    for source, name in (
        ("en_doc_qt", "documentation"),
        ("en_novels", "prose"),
        ("de_man", "languages"),
        ("sam", "formats"),
    ):
        assert mix_text.group_of(source, groups).name == name


def test_a_document_that_does_not_fit_is_skipped():
    documents = [mix_text.Listed(i, "a", size, bytes([i])) for i, size in enumerate((5, 9, 4, 1))]
    assert [f.size for f in mix_text.fitting(documents, 10, "size")] == [5, 4, 1]
    assert mix_text.held_apart(documents, 0.01) == {3} and mix_text.held_apart(documents[:1], 0.5) == set()
