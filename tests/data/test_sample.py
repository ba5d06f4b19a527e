"""The shipped text: size, sources, order and split."""

import re
from collections import Counter
from itertools import pairwise

import pytest

import monosem as ms
from monosem.data import sample, text_files

RARE = {"Arabic": "ar_", "Hebrew": "he_", "DNA": "dna", "base64": "base64"}


@pytest.fixture(scope="module")
def documents():
    return sample.sample_documents("all")


@pytest.fixture(scope="module")
def rich():
    return sample.load_documents("sample:rich", "all")


def test_sizes(documents, rich):
    assert sum(len(d.text.encode()) for d in documents) >= 12_000_000
    assert text_files.sample_path().stat().st_size <= 4_300_000
    lengths = [len(d.text) for d in [*documents, *rich]]
    assert min(lengths) >= 200 and max(lengths) <= 8000


def test_rare_kinds_are_as_rare_as_in_the_text_of_the_models(documents):
    sources = {d.source for d in documents}
    assert {"en_prose", "en_docs", "code_python", "code_c", "code_js", "html", "dna", "base64"} <= sources
    tokens = Counter()
    for d, ids in zip(documents, ms.load_model("A").encode_batch([d.text for d in documents]), strict=True):
        tokens[next((label for label, prefix in RARE.items() if d.source.startswith(prefix)), "rest")] += len(ids)
    for label in RARE:
        assert 0.004 < tokens[label] / tokens.total() < 0.007, label


def test_the_rich_part_has_other_documents_of_the_rare_kinds(documents, rich):
    assert not {d.text for d in documents} & {d.text for d in rich}
    for label, prefix in RARE.items():
        size = sum(len(d.text.encode()) for d in rich if d.source.startswith(prefix))
        assert 240_000 < size < 510_000, label


@pytest.mark.parametrize(
    ("prefix", "letters"),
    [("ar_", "\u0600-\u06ff"), ("he_", "\u0590-\u05ff"), ("ru_", "\u0400-\u04ff"), ("zh_", "\u4e00-\u9fff")],
)
def test_label_is_the_script(documents, rich, prefix, letters):
    text = "".join(d.text for d in [*documents, *rich] if d.source.startswith(prefix))
    inside = len(re.findall(f"[{letters}]", text))
    assert inside / sum(c.isalpha() for c in text) > 0.6


def test_order_is_mixed(documents):
    runs = 1 + sum(a.source != b.source for a, b in pairwise(documents))
    assert runs > 0.8 * len(documents)


def test_splits(documents):
    train, held_out = sample.sample_documents("train"), sample.sample_documents("held_out")
    assert len(train) + len(held_out) == len(documents)
    assert {d.source for d in held_out} == {d.source for d in documents}
    assert not {d.text for d in train} & {d.text for d in held_out}
    assert 0.015 < len(held_out) / len(documents) < 0.03
    with pytest.raises(ValueError, match="split: got 'test'; wanted 'train', 'held_out' or 'all'"):
        sample.sample_documents("test")


def test_missing_asset(monkeypatch, tmp_path):
    monkeypatch.setattr(text_files, "resources", lambda name: tmp_path)
    for part in ("sample", "sample:rich"):
        with pytest.raises(FileNotFoundError, match=r"build_sample_text.py"):
            text_files.sample_path(part)
