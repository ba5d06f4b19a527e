"""The browser of a model without a next token, and of vectors of whole texts, in a real browser."""

import json

import torch

import monosem as ms
from monosem.analysis.dashboard import Counts, write_site
from monosem.analysis.dashboard.records import beginning
from monosem.analysis.index import IndexSettings, build_index
from monosem.analysis.inputs import Subject
from monosem.data.vectors import HOOK, Vectors, save_vectors

READY = "document.documentElement.dataset.ready"


def orders(tab):
    return tab.run("[...document.querySelectorAll('#order option')].map((o) => o.value)")


def found(tab, query):
    asked = f"{{query: {json.dumps(query)}, low: 0, high: 1, source: null, silent: true, order: 'number'}}"
    return tab.run(f"find({asked}).then((a) => [...a])")


def test_an_encoder(exact, model, hook, rows, tmp_path, tab):
    model.predicts = False
    subject = Subject(exact, model, hook)
    index = build_index(subject, rows, tmp_path / "index", settings=IndexSettings(contexts=3), progress=False)
    page = write_site(subject, index, tmp_path / "site", progress=False)
    tab.open(page)
    tab.wait(READY)
    assert orders(tab) == ["r", "focus", "density", "rare", "max", "number"]
    tab.run("location.hash = '#0'")
    tab.wait(f"{READY} === '#0'")
    text = tab.run("document.getElementById('body').textContent")
    assert "logits" not in text and "Fires on" in text and tab.count(".says") == 0
    on_x = [f for f in range(12) if 11 in {t.token for t in index.top_tokens(f, 4)}]
    assert on_x and found(tab, "fires:x") == on_x
    assert found(tab, "says:x") == [] and found(tab, "skew>0") == []
    assert "NaN" not in tab.run("document.documentElement.outerHTML")


def test_vectors_of_texts(tmp_path, tab):
    """Four topics, of which each has a feature: a list of texts, and no token anywhere."""
    topic = torch.arange(80) % 4
    texts = [f"About topic{t}, text {i}.\n" + "and so on " * 50 for i, t in enumerate(topic.tolist())]
    vectors = torch.nn.functional.one_hot(topic, 6) * torch.linspace(1, 2, 80)[:, None]
    model = Vectors(save_vectors(tmp_path / "v", vectors, texts, [f"s{t}" for t in topic.tolist()]))
    sae = ms.ReLUSAE(6, 8, l1_coefficient=1.0, seed=0)
    with torch.no_grad():
        for rows in (sae.W_enc_rows, sae.W_dec):
            rows.copy_(torch.eye(8, 6))
        sae.b_enc[4:].fill_(-1.0)  # silent
    subject = Subject(sae, model, HOOK)
    index = build_index(subject, model.rows(), tmp_path / "index", progress=False)
    tab.open(write_site(subject, index, tmp_path / "site", counts=Counts(5, 1, 2), progress=False))
    tab.wait(READY)
    assert orders(tab) == ["r", "density", "rare", "max", "number"]
    assert "80 texts read" in tab.run("document.querySelector('#panel .fine').textContent")
    tab.run("location.hash = '#1'")
    tab.wait(f"{READY} === '#1'")
    body = tab.run("document.getElementById('body').textContent")
    assert "25.0 % of texts" in body and "Texts on which it is strongest" in body and "token" not in body
    lines = "[...document.querySelectorAll('#body .line .text')].map((n) => n.textContent)"
    # The strongest of topic 1 are its last ones; random examples are of topic 1 too.
    shown = tab.run(lines)
    assert [line.split(".")[0] for line in shown[:5]] == [f"About topic1, text {i}" for i in (77, 73, 69, 65, 61)]
    assert all("topic1" in line and line.endswith("…") for line in shown)
    assert "topic1, text 77" in tab.run("document.querySelector('#list .item:nth-child(1)').parentNode.textContent")
    assert found(tab, "topic2") == [2] and found(tab, "source:s3") == [3] and found(tab, "focus>0") == []
    assert "token" not in tab.run("document.body.innerText")
    assert "NaN" not in tab.run("document.documentElement.outerHTML")


def test_texts_are_cut_between_words():
    assert beginning("short", 10) == "short"
    assert beginning("one two three", 10) == "one two…"
    assert beginning("onetwothreefour", 10) == "onetwothr…"  # no blank in its second half
    assert all(len(beginning("ab " * n, 20)) <= 20 for n in range(12))
