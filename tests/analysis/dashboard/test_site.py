"""The browser of features: its data against the dense activations, and the page itself in a real browser."""

import base64
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import monosem as ms
from monosem.analysis.dashboard import Counts, write_site
from monosem.analysis.dashboard.feature_table import gather
from monosem.analysis.dashboard.records import Records
from monosem.analysis.dashboard.search_index import of_examples, words
from monosem.analysis.index import IndexSettings, build_index
from monosem.analysis.inputs import Subject
from monosem.analysis.nearest import nearest
from monosem.analysis.windows import Piece, Window

COUNTS = Counts(top=5, per_interval=2, random=3)


def contents(path):
    """What a data file hands to the page: its arguments."""
    text = path.read_text(encoding="utf-8")
    return json.loads("[" + re.fullmatch(r"monosem\.\w+\((.*)\);\n", text, re.S)[1] + "]")


@pytest.fixture
def subject(exact, model, hook):
    words_of = {"x": 11, "y": 12, "the": 1, "שלום": 7}
    model.encode_batch = lambda texts: [[words_of[w] for w in text.split()] for text in texts]
    return Subject(exact, model, hook)


@pytest.fixture
def index(subject, rows, tmp_path):
    return build_index(subject, rows, tmp_path / "index", settings=IndexSettings(contexts=3), progress=False)


@pytest.fixture
def site(subject, index, rows, tmp_path):
    marks = {"Hebrew": rows.tokens == 7, "x": np.isin(rows.tokens, [7, 11])}  # Hebrew goes before x
    write_site(
        subject,
        index,
        tmp_path / "site",
        prompts=["the x שלום", "שלום"],
        counts=COUNTS,
        marks=marks,
        following={0: [(3, 0.5)]},
        progress=False,
    )
    return tmp_path / "site"


def test_records_agree_with_the_dense_code(site, index, subject, rows):
    number, records = contents(site / "data" / "features-0.js")
    assert number == 0 and [r["f"] for r in records] == list(range(14))
    f = subject.sae.encode(subject.model.E[torch.from_numpy(rows.tokens.astype(np.int64))]).to_dense().detach()
    f[:, 0] = 0
    for r in records[:12]:
        mine = f[..., r["f"]]
        assert r["n"] == int((mine > 0).sum()) and r["max"] == pytest.approx(float(mine.max()), rel=1e-3)
        assert r["mean"] == pytest.approx(float(mine[mine > 0].mean()), rel=1e-3)
        assert sum(map(sum, r["h"]["counts"])) == r["n"]
        of_mark = {name: int((mine[torch.from_numpy(rows.tokens == t)] > 0).sum()) for name, t in (("h", 7), ("x", 11))}
        got = {"hx"[s]: sum(c) for s, c in zip(r["k"]["sources"], r["k"]["counts"], strict=True)}
        assert got == {k: v for k, v in of_mark.items() if v}
        assert len(r["ex"]["iv"]) == 11 and r["ex"]["iv"][0][1] == r["max"]
        assert 0 < len(r["ex"]["top"]) <= 5 and r["ex"]["top"][0][1] == r["max"]
        for _, value, _, focus, pieces in [*r["ex"]["top"], *r["ex"]["rnd"]]:
            assert pieces[focus][1] >= value * 0.999
        for low, high, examples in r["ex"]["iv"]:
            assert all(low * 0.999 <= e[1] <= high * 1.001 for e in examples)
    dead = records[12]
    assert dead["n"] == 0 and "ex" not in dead
    assert records[0]["next"] == [[3, 0.5]] and records[1]["next"] == []
    assert records[0]["nb"] == []  # its decoder row is a unit vector: nothing else has a positive cosine


def test_the_summary_agrees_with_the_index(site, index):
    (summary,) = contents(site / "data" / "summary.js")
    counts = np.frombuffer(base64.b64decode(summary["columns"]["count"]), "<u4")
    assert counts.tolist() == index.counts.tolist()
    tokens = np.frombuffer(base64.b64decode(summary["columns"]["tokens"]), "<u2").reshape(-1, summary["listed"][0])
    for f in range(14):
        wanted = [t.token for t in index.top_tokens(f, 4)]
        assert [t for t in tokens[f].tolist() if t != 65_535] == wanted
    assert summary["vocabulary"][2] == "</script><b>"


def test_every_word_of_an_example_is_in_the_search_index(site, index, subject):
    postings = {}
    for number in range(64):
        n, shard = contents(site / "data" / f"words-{number}.js")
        assert n == number
        postings |= {w: np.cumsum(d).tolist() for w, d in shard.items()}
    records = Records(subject.model, index, gather(subject, index, progress=False), COUNTS)
    for f in range(14):
        wanted = of_examples(records.top(f))
        assert {w for w, features in postings.items() if f in features} == wanted
    assert "שלום" in postings and not set(["x", "y", "z"]) & set(postings)  # single letters are no words


def test_search_words_are_those_with_activation_or_in_two_examples():
    piece = lambda text, value=0.0: Piece(text, value, value > 0, ((text, value),))
    window = lambda *pieces: Window(row=0, position=0, value=1.0, source="s", pieces=pieces, right_to_left=False)
    first = window(piece("red "), piece("fo", 1.0), piece("xes run"))
    second = window(piece("a red "), piece("house", 1.0))
    assert of_examples([first, second]) == {"foxes", "house", "red"}  # on which it fires, or in both


def test_nothing_is_loaded_from_a_network(site):
    page = (site / "index.html").read_text(encoding="utf-8")
    assert "</script><b>" not in page and "@import" not in page and "url(" not in page
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", page)
    for path in (site / "data").iterdir():
        assert "</script" not in path.read_text(encoding="utf-8")


def test_another_dictionary_is_refused(index, lossy, model, hook, tmp_path):
    with pytest.raises(ValueError, match="another dictionary"):
        write_site(Subject(lossy, model, hook), index, tmp_path / "site", progress=False)


def test_a_prompt_longer_than_the_context_is_refused(subject, index, tmp_path):
    with pytest.raises(ValueError, match="prompt: got 12 tokens"):
        write_site(subject, index, tmp_path / "site", prompts=["x " * 12], progress=False)


def test_nearest_against_the_dense_product():
    w = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    ids, values = nearest(w, 4, block=16)
    unit = torch.nn.functional.normalize(w, dim=1)
    dense = (unit @ unit.T).fill_diagonal_(-1)
    wanted = dense.topk(4, dim=1)
    assert torch.equal(ids.long(), wanted.indices)
    assert torch.allclose(values, wanted.values, atol=1e-6)


def test_text_is_cut_into_words_and_character_pairs():
    assert list(words("The foxes' DNA_x 9 don't")) == ["the", "foxes", "dna", "don"]
    assert list(words("हिन्दी")) == ["हिन्दी"]
    assert list(words("你好吗")) == ["你好", "好吗"]
    assert list(words("a" * 40)) == ["a" * 16]


def shown(tab):
    return tab.run("document.documentElement.dataset.ready")


def count(tab):
    return tab.run("document.getElementById('count').textContent")


def search(tab, text):
    tab.press("/")
    tab.call("Input.insertText", text=text)
    tab.wait(f"list.size !== undefined && document.getElementById('search').value === {json.dumps(text)}")
    numbers = tab.run(
        f"find({{query: {json.dumps(text)}, low: 0, high: 1, source: null, silent: true, order: 'number'}})"
        ".then((a) => [...a])"
    )
    tab.press("Escape")
    return numbers


def test_the_list_the_feature_page_and_the_links_work(site, index, tab):
    tab.open(site / "index.html")
    tab.wait("document.documentElement.dataset.ready")
    assert count(tab) == "12 of 14"
    assert tab.run("performance.getEntriesByType('resource').every((r) => r.name.startsWith('file:'))")
    # j, k and the address
    order = tab.run(
        "find({query: '', low: 0, high: 1, source: null, silent: false, order: 'skew'}).then((a) => [...a])"
    )
    assert shown(tab) == f"#{order[0]}"
    tab.press("j")
    tab.wait(f"document.documentElement.dataset.ready === '#{order[1]}'")
    assert tab.run("location.hash") == f"#{order[1]}"
    assert tab.run("document.querySelector('.item[aria-selected=true] b').textContent") == f"#{order[1]}"
    tab.press("k")
    tab.wait(f"document.documentElement.dataset.ready === '#{order[0]}'")
    # a feature's page
    tab.run("location.hash = '#0'")
    tab.wait("document.documentElement.dataset.ready === '#0'")
    text = tab.run("document.getElementById('body').textContent")
    for part in ("Positive logits", "Fires on", "Fires together with", "Its next tokens fire", "Correlated neurons"):
        assert part in text
    assert tab.run("document.querySelectorAll('.level').length") == 11
    assert (
        tab.run(
            "document.querySelectorAll('.text[dir=rtl]').length + document.querySelectorAll('.text[dir=ltr]').length"
        )
        > 10
    )
    assert tab.run("[...document.querySelectorAll('.switch button')].map((b) => b.textContent)") == [
        "by source",
        "by proxy",
    ]
    tab.run("document.querySelectorAll('.switch button')[1].click()")
    assert "none of these" in tab.run("document.querySelector('.legend').textContent")
    # help
    tab.press("?")
    assert tab.run("document.getElementById('help').open")
    tab.press("Escape")
    assert not tab.run("document.getElementById('help').open")


def test_search_by_number_density_source_and_word(site, index, tab, rows):
    tab.open(site / "index.html")
    tab.wait("document.documentElement.dataset.ready")
    assert search(tab, "#7") == [7]
    dense = [f for f in range(14) if float(index.density[f]) > 0.5]
    assert search(tab, "density>50%") == search(tab, "density>0.5") == dense
    on_x = [f for f in range(12) if 11 in {t.token for t in index.top_tokens(f, 4)}]
    assert search(tab, "fires:x") == on_x
    assert search(tab, "-fires:x") == [f for f in range(14) if f not in on_x]
    r = index.moments.correlations({s: [i] for i, s in enumerate(index.sources)})
    of_code = [f for f in range(12) if int(r[f].argmax()) == 2]
    assert search(tab, "source:code") == of_code
    assert search(tab, "source:code fires:x") == [f for f in of_code if f in on_x]
    hebrew = search(tab, "text:שלום")
    assert hebrew and set(hebrew) <= set(range(12))
    assert search(tab, "text:zebra") == []
    for text in ("The foxes' DNA don't", "हिन्दी में", "你好吗", "مرحبا بالعالم", "a" * 40):
        assert tab.run(f"cut({json.dumps(text)})") == list(words(text))
    tab.wait("document.getElementById('count').textContent === '0 of 14'")  # no zebra
    tab.run("const box = document.getElementById('search'); box.value = ''; box.dispatchEvent(new Event('input'))")
    tab.wait("document.getElementById('count').textContent === '12 of 14'")
    # The silent ones are listed when asked for.
    tab.run("document.getElementById('silent').click()")
    tab.wait("document.getElementById('count').textContent === '14 of 14'")
    # A bound on the density.
    tab.run("const low = document.getElementById('low'); low.value = 0; low.dispatchEvent(new Event('input'))")
    tab.run("document.getElementById('silent').click()")
    tab.wait("document.getElementById('count').textContent !== '14 of 14'")


def test_the_prompt_page_shows_the_features_of_each_token(site, subject, tab):
    tab.open(site / "index.html")
    tab.wait("document.documentElement.dataset.ready")
    tab.press("p")
    tab.wait("document.documentElement.dataset.ready === '#p0'")
    values = subject.sae.encode(subject.model.E[1]).to_dense().detach()
    best = int(values.argmax())
    assert tab.run("document.querySelector('.rel.chosen b').textContent") == f"#{best}"
    assert "token 1" in tab.run("document.querySelector('#body > h5').textContent")
    tab.press("ArrowRight")
    assert "token 2" in tab.run("document.querySelector('#body > h5').textContent")
    on_x = subject.sae.encode(subject.model.E[11]).to_dense().detach()
    order = on_x.argsort(descending=True).tolist()
    tab.press("ArrowDown")
    assert tab.run("document.querySelector('.rel.chosen b').textContent") == f"#{order[1]}"
    tab.press("Enter")
    tab.wait(f"document.documentElement.dataset.ready === '#{order[1]}'")
    tab.run("location.hash = '#p1'")
    tab.wait("document.documentElement.dataset.ready === '#p1'")
    right = "getComputedStyle(document.querySelector('.text.prompt')).direction"
    assert tab.run(right) == "rtl"


def test_a_missing_data_file_is_reported_on_the_page(site, tab):
    (site / "data" / "features-0.js").unlink()
    tab.open(site / "index.html")
    tab.wait("document.getElementById('body').textContent.includes('features-0.js is missing')")
    assert len(tab.errors()) == 1  # the browser's own note of it


def test_right_to_left_examples_are_aligned_right(subject, rows, tmp_path, tab):
    """A text of one Hebrew word: every example of it runs from the right."""
    hebrew = SimpleNamespace(
        tokens=np.where(rows.tokens > 0, 7, 0).astype(np.int32), source=rows.source, sources=rows.sources
    )
    index = build_index(subject, hebrew, tmp_path / "he", progress=False)
    write_site(subject, index, tmp_path / "site", counts=COUNTS, progress=False)
    tab.open(tmp_path / "site" / "index.html")
    tab.wait("document.documentElement.dataset.ready")
    assert tab.run("[...document.querySelectorAll('.line .text')].every((n) => n.dir === 'rtl')")
    right = "document.querySelector('.line {}').getBoundingClientRect().right"
    assert tab.run(f"{right.format('.text')} - {right.format('.tok')}") < 30  # the first token, at the right edge


def test_a_dictionary_without_active_features_has_a_page(subject, rows, tmp_path, tab):
    with torch.no_grad():
        subject.sae.b_enc.fill_(-1e9)
    index = build_index(subject, rows, tmp_path / "dead", progress=False)
    write_site(subject, index, tmp_path / "site", prompts=["the x"], counts=COUNTS, progress=False)
    tab.open(tmp_path / "site" / "index.html")
    tab.wait("document.getElementById('count').textContent === '0 of 14'")
    assert "No feature" in tab.run("document.getElementById('body').textContent")
    tab.run("document.getElementById('silent').click()")
    tab.wait("document.documentElement.dataset.ready && document.querySelectorAll('#list .item').length === 14")
    assert "fired on none of the 110 tokens" in tab.run("document.getElementById('body').textContent")
    tab.run("location.hash = '#p0'")
    tab.wait("document.documentElement.dataset.ready === '#p0'")
    assert "NaN" not in tab.run("document.documentElement.outerHTML")


def test_a_dictionary_of_one_feature_has_a_page(model, hook, rows, tmp_path, tab):
    subject = Subject(ms.TopKSAE(model.E.shape[1], 1, k=1, seed=0), model, hook)
    index = build_index(subject, rows, tmp_path / "one", progress=False)
    write_site(subject, index, tmp_path / "site", counts=COUNTS, progress=False)
    tab.open(tmp_path / "site" / "index.html")
    tab.wait("document.documentElement.dataset.ready === '#0'")
    assert tab.count(".level") == 11 and tab.count("#body svg") == 1
    for key in "jk":
        tab.press(key)
    assert "NaN" not in tab.run("document.documentElement.outerHTML")
