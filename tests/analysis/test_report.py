"""The page: whole, self-contained, and safe whatever the tokens are."""

import html.parser
import json
import re

import pytest
import torch

import monosem as ms
from monosem.analysis.metrics import evaluate
from monosem.analysis.report.content import study
from monosem.analysis.report.curves import read_curves
from monosem.analysis.report.page import embed, write_report
from monosem.analysis.sources import SourceMoments
from monosem.analysis.windows import is_right_to_left


class Page(html.parser.HTMLParser):
    """Collects elements and the text of the scripts; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements, self.scripts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


@pytest.fixture
def page(model, lossy, rows, hook, tmp_path):
    held_out = SourceMoments(lossy.cfg.d_sae, rows.sources)
    evaluation = evaluate(lossy, model, hook, rows, progress=False, observers=[held_out.update])
    chosen = study(lossy, model, hook, rows, progress=False)
    curves = {"step": [1, 2], "tokens": [10, 20], "loss": [1.0, 0.5]}
    out = write_report(
        tmp_path / "new" / "report.html",
        lossy,
        model,
        hook,
        evaluation,
        chosen,
        held_out=held_out,
        curves=curves,
        notes=("a <note> & more",),
    )
    return out.read_text(encoding="utf-8")


def test_the_report_loads_nothing(page):
    parsed = Page(page)
    assert [e for e in parsed.elements if {"src", "srcset", "action", "data"} & set(e[1])] == []
    links = [a["href"] for tag, a in parsed.elements if "href" in a]
    assert links and all(link.startswith("#") for link in links)
    assert not [tag for tag, _ in parsed.elements if tag in ("link", "img", "iframe", "object", "embed", "base")]
    assert "@import" not in page and "url(" not in page
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}  # the name of SVG elements
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", page)


def test_tokens_cannot_end_the_script(page, lossy):
    parsed = Page(page)
    assert len([1 for tag, _ in parsed.elements if tag == "script"]) == 2
    assert "</script><b>" not in page
    data = json.loads(parsed.scripts[0])
    words = {w for c in data["cards"] for w, _ in c["positive"] + c["negative"]}
    assert "</script><b>" in words and "a&b" in words
    assert "a &lt;note&gt; &amp; more" in page


def test_cards_agree_with_the_index(page, lossy, model):
    data = json.loads(Page(page).scripts[0])
    features = [c["feature"] for c in data["cards"]]
    assert len(features) == len(set(features)) == sum(g["count"] for g in data["groups"])
    for card in data["cards"]:
        assert card["top"] and len(card["intervals"]) == 4
        assert sum(map(sum, card["histogram"]["counts"])) == card["count"] == data["overview"]["count"][card["feature"]]
        assert sum(share for _, share in card["shares"]) == pytest.approx(1, abs=1e-3)
        assert card["tokens"] and sum(share for _, share in card["tokens"]) <= 1 + 1e-3
        for example in card["top"]:
            assert example["pieces"][example["focus"]][1] == pytest.approx(example["value"], rel=1e-3)
            assert example["rtl"] == is_right_to_left("".join(piece[0] for piece in example["pieces"]))
    assert {label["label"] for label in data["labels"]} == {"Arabic", "base64"}
    assert all(label["held_out"]["correlation"] == pytest.approx(label["correlation"]) for label in data["labels"])
    assert all(label["best_held_out"]["feature"] == label["feature"] for label in data["labels"])  # the same text
    assert {label["feature"] for label in data["labels"]} <= set(features)


def test_embedded_json_cannot_end_a_script():
    text = embed({"t": "</script>\u2028<!--&"})
    assert not set("<>&\u2028") & set(text) and json.loads(text) == {"t": "</script>\u2028<!--&"}
    with pytest.raises(ValueError):
        embed(float("nan"))


def test_curves_survive_missing_keys_and_a_cut_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": i, "tokens": 10 * i, "loss": 1 / i} | ({"l0": 3} if i > 1 else {}) for i in range(1, 1001)]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 1001, "lo')
    got = read_curves(path, points=50)
    assert set(got) == {"step", "tokens", "loss", "l0"} and len(got["loss"]) == 50
    assert (got["step"][0], got["step"][-1], got["l0"][0]) == (1, 1000, None)
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        read_curves(tmp_path / "none.jsonl")


def test_a_report_without_active_features_is_written(model, exact, rows, hook, tmp_path, tab):
    with torch.no_grad():
        exact.b_enc.fill_(-1e9)
    rows.sources = ["text", "more", "code"]  # no label, no feature that fires, no curves
    evaluation = evaluate(exact, model, hook, rows, progress=False)
    chosen = study(exact, model, hook, rows, progress=False)
    page = write_report(tmp_path / "r.html", exact, model, hook, evaluation, chosen).read_text()
    data = json.loads(Page(page).scripts[0])
    assert data["cards"] == data["groups"] == data["labels"] == []
    assert data["silent"] == {"features": 14, "tokens": 110}
    assert 'id="labels"' not in page and 'id="training"' not in page
    tab.open(tmp_path / "r.html")
    assert tab.errors() == []
    assert "No feature fired" in tab.run("document.getElementById('features').textContent")
    assert tab.count("#search") == tab.count("#groups") == 0, "nothing to search in"
    assert tab.count("section:not(:has(table, svg, .card, ul, .note))") == 0, "a title with nothing under it"


@pytest.mark.parametrize("points", [0, 1, 2])
def test_training_curves_need_two_points(model, exact, rows, hook, tmp_path, tab, points):
    evaluation = evaluate(exact, model, hook, rows, progress=False)
    chosen = study(exact, model, hook, rows, progress=False)
    curves = {"step": [1, 2][:points], "loss": [1.0, 0.5][:points]}
    tab.open(write_report(tmp_path / "r.html", exact, model, hook, evaluation, chosen, curves=curves))
    assert tab.errors() == []
    assert tab.count("#training") == tab.count("a[href='#training']") == tab.count("#curves svg") == (points == 2)


def test_a_report_of_one_feature_and_one_source(model, rows, hook, tmp_path, tab):
    sae = ms.TopKSAE(model.E.shape[1], 1, k=1, seed=0)
    rows.sources, rows.source = ["only"], rows.source * 0
    evaluation = evaluate(sae, model, hook, rows, progress=False)
    chosen = study(sae, model, hook, rows, progress=False)
    tab.open(write_report(tmp_path / "r.html", sae, model, hook, evaluation, chosen))
    assert tab.errors() == []
    assert tab.count("article.card") == tab.count("#scatter circle") == tab.count("#density rect") == 1
    assert "NaN" not in tab.run("document.documentElement.outerHTML")


def test_the_script_draws_every_card_and_chart(page, tmp_path, tab):
    data = json.loads(Page(page).scripts[0])
    tab.open(tmp_path / "new" / "report.html")
    assert tab.errors() == []
    assert tab.count("article.card") == len(data["cards"]) > 0
    assert tab.count("article.card svg") == len(data["cards"])  # a histogram each
    assert tab.count("#panels article") == len(data["labels"]) == 2
    assert tab.count("#groups button") == len(data["groups"])
    assert tab.count("#scatter circle") == sum(c > 0 for c in data["overview"]["count"])
    assert tab.count("#density rect") == sum(c > 0 for c in data["evaluation"]["density_counts"])
    assert tab.count("#curves svg") == 1
