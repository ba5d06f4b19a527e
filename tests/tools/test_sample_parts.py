"""The sample text in two parts: the mixture, and more of the rare kinds, which share no document."""

import random
import sys
from pathlib import Path

import pytest
from tiny import tiny_model

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import build_sample_text
import mix_text
import sample_parts

from monosem.data.jsonl import read_jsonl
from monosem.data.text import Document
from monosem.data.tokenizer import encode_documents

GROUPS = [
    mix_text.Group("arabic", 0.02, ("ar_*",)),
    mix_text.Group("dna", 0.02, ("dna",)),
    mix_text.Group("prose", 0.96, ("*",)),
]
WORDS = {"en_a": "the quick brown fox", "ar_x": "سلام على كل", "dna": "acgt ttga"}


@pytest.fixture(scope="module")
def documents():
    chooser = random.Random(0)
    return [
        Document(source, " ".join(chooser.choices(words.split(), k=chooser.randint(20, 60))))
        for source, words in WORDS.items()
        for _ in range(400 if source == "en_a" else 100)
    ]


def test_one_part_is_the_mixture_and_the_other_is_rich(documents):
    tokenizer = tiny_model().tokenizer
    natural, rich = sample_parts.two_parts(documents, GROUPS, tokenizer, 20_000, {"arabic": 5, "dna": 4})
    assert not set(natural) & set(rich) and len(set(natural)) == len(natural) and len(set(rich)) == len(rich)
    counts = dict.fromkeys(WORDS, 0)
    for place, ids in zip(natural, encode_documents(tokenizer, [documents[i] for i in natural]), strict=True):
        counts[documents[place].source] += len(ids)
    longest = max(len(ids) for ids in encode_documents(tokenizer, documents))
    for source, share in (("en_a", 0.96), ("ar_x", 0.02), ("dna", 0.02)):
        assert share * 20_000 - longest < counts[source] <= share * 20_000
    sizes = {s: sum(len(documents[i].text.encode()) for i in rich if documents[i].source == s) for s in WORDS}
    assert sizes["en_a"] == 0 and 4500 < sizes["ar_x"] <= 5000 and 3500 < sizes["dna"] <= 4000
    again = sample_parts.two_parts(documents, GROUPS, tokenizer, 20_000, {"arabic": 5, "dna": 4})
    assert again == (natural, rich)


def test_too_little_text(documents):
    tokenizer = tiny_model().tokenizer
    with pytest.raises(ValueError, match=r"rich: \d+ kB of 'arabic' are left; wanted 500. Add sources"):
        sample_parts.two_parts(documents, GROUPS, tokenizer, 20_000, {"arabic": 500})
    with pytest.raises(ValueError, match=r"tokens: got 900,000; wanted more than 0 and at most"):
        sample_parts.two_parts(documents, GROUPS, tokenizer, 900_000)


def test_every_source_has_a_group_and_the_rare_ones_their_own():
    groups = mix_text.read_recipe(mix_text.RECIPE)
    of = {s.name: mix_text.group_of(s.name, groups).name for s in build_sample_text.SOURCES + build_sample_text.TAIL}
    assert (of["ar_ui"], of["he_ui"], of["dna"], of["base64"]) == ("arabic", "hebrew", "dna", "base64")
    assert (of["en_docs"], of["en_jargon"], of["en_prose"]) == ("documentation", "documentation", "prose")
    assert (of["code_css"], of["fa_ui"], of["zh_poems"], of["html"]) == ("code", "languages", "languages", "formats")
    assert set(sample_parts.RICH) <= {g.name for g in groups}


def test_page_and_files(tmp_path):
    one, two = build_sample_text.SOURCES[0], build_sample_text.TAIL[0]
    taken = [(one, "some text"), (one, "more"), (two, "{}")]
    versions = {one.package: "1.0", two.package: "2.0"}
    page = build_sample_text.table({build_sample_text.TEXT: (taken, 900_000)}, versions)
    assert "0.0 MB of text (0.9 MB packed) in 3 documents, one\nJSON object a line" in page
    assert f"| {one.name} | 2 | 0 | `{one.package}` 1.0 | {one.licence} |" in page and "rich" not in page
    page = build_sample_text.table({"a": (taken[:1], 1), "b": (taken[1:], 1)}, versions)
    assert f"| {one.name} | 1 | 0 | 1 | 0 |" in page and f"| {two.name} | 0 | 0 | 1 | 0 |" in page
    (tmp_path / "x.jsonl.xz").write_bytes(build_sample_text.packed(taken))
    assert sorted((d.source, d.text) for d in read_jsonl(tmp_path / "x.jsonl.xz")) == sorted(
        (s.name, t) for s, t in taken
    )
