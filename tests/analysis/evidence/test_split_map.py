"""The map of features in a real browser: pointing, clicking, colours, search."""

import json

import pytest

from monosem.analysis.evidence import split_page
from monosem.analysis.evidence.section import write_page

MAP = {
    "x": [1000, 5000, 9000, 9000],
    "y": [5000, 5000, 5000, 1000],
    "level": [0, 1, 1, 1],
    "feature": [7, 3, 4, 5],
    "density": [-1.0, -2.0, -2.0, -3.0],
    "source": [0, 0, 1, 1],
    "share": [90, 80, 70, 60],
    "cluster": [0, 0, -1, 1],
    "order": [3, 2, 0, 1],
    "raised": [[0, 1], [0, 2], [1, 2], [2, 0]],
    "vocabulary": [" the", "</script><b>", "שלום"],
    "sources": ["base64", "he_ui"],
    "family": [0, 1, 2],
    "edges": [[0, 1, 93], [0, 2, 55]],
    "edges_left_out": 0,
}
NODE = {
    "tokens": 100,
    "density": 0.1,
    "source": "base64",
    "share": 0.9,
    "precision": 0.9,
    "recall": 0.5,
    "correlation": 0.8,
    "words": [[" the", 3], ["</script><b>", 2]],
    "raised": [["שלום", 1.0]],
    "examples": [{"source": "he_ui", "right_to_left": True, "pieces": [{"text": "<i>", "value": 1.0, "focus": True}]}],
}
RESULT = {
    "model": "A",
    "hook_name": "h",
    "tokens": 1000,
    "threshold": 0.4,
    "least": 20,
    "label": "base64",
    "omitted": 1,
    "joined": [1, 4],
    "levels": [
        {
            "name": str(n),
            "d_sae": n,
            "alive": n,
            "compared": n,
            "label_features": 1,
            "label_best": 7,
            "label_correlation": 0.9,
        }
        for n in (512, 4096)
    ],
    "steps": [{"edges": 2, "children": [0, 0, 1, 0, 0, 0, 0, 0, 0], "orphans": 1, "several_parents": 0, "agreed": 1.0}],
    "nodes": [NODE | {"level": 0, "feature": 7}, NODE | {"level": 1, "feature": 3}, NODE | {"level": 1, "feature": 4}],
    "links": [
        {"level": 0, "parent": 7, "child": 3, "masked": 0.93, "decoder": 0.7},
        {"level": 0, "parent": 7, "child": 4, "masked": 0.55, "decoder": 0.4},
    ],
    "listed": [NODE | {"level": 1, "feature": 3}, NODE | {"level": 1, "feature": 9}],
    "unlisted": [0, 2],
    "map": MAP,
}


@pytest.fixture
def page(tmp_path, tab):
    path = write_page(
        tmp_path / "splitting.html", "Features split", [split_page.section(json.loads(json.dumps(RESULT)))]
    )
    tab.open(path)
    return tab


def pointer(page, kind, dot):
    page.run(
        f"""(() => {{ const c = document.getElementById('map'), r = c.getBoundingClientRect();
        c.dispatchEvent(new PointerEvent('{kind}', {{bubbles: true, pointerId: 1,
          clientX: r.left + {MAP["x"][dot]} / 1e4 * c.clientWidth,
          clientY: r.top + (1 - {MAP["y"][dot]} / 1e4) * c.clientHeight}})); }})()"""
    )


def words(page, at):
    return page.run(f"document.getElementById('{at}').textContent")


def test_the_map_shows_and_keeps_a_feature(page):
    page.run("HTMLElement.prototype.setPointerCapture = () => {}")  # made-up events own no pointer
    assert "#7 of 512 features" in words(page, "map-chosen") and "(0.93)" in words(page, "map-chosen")
    assert words(page, "map-keys") == "512 features4,096 features"
    pointer(page, "pointermove", 2)
    tip = words(page, "map-tip")
    assert "#4 of 4,096 features" in tip and "70 % of them he_ui" in tip and "</script><b>" in tip
    pointer(page, "pointerdown", 1)
    pointer(page, "pointerup", 1)
    assert "#3 of 4,096" in words(page, "map-chosen") and "#7 of 512 features (0.93)" in words(page, "map-chosen")
    page.run("document.querySelector('#map-chosen button').click()")
    assert words(page, "map-chosen").startswith("#7 of 512")
    page.run("[...document.querySelectorAll('#map-tools button')].find(b => b.textContent.includes('source')).click()")
    assert words(page, "map-keys") == "base64he_ui"
    page.run("[...document.querySelectorAll('#map-tools button')].find(b => b.textContent.includes('density')).click()")
    assert "10 % of tokens" in words(page, "map-keys")
    for query, shown in (("#5", "#5 of"), ("he_ui", "#4 of"), ("the", "#5 of")):
        page.run(
            f"(() => {{ const s = document.querySelector('#map-tools input'); s.value = '{query}'; s.onchange(); }})()"
        )
        assert words(page, "map-chosen").startswith(shown), query
    # A hidden dictionary is neither found nor pointed at.
    page.run("[...document.querySelectorAll('#map-tools button')].find(b => b.textContent.startsWith('4,096')).click()")
    pointer(page, "pointermove", 2)
    assert page.run("document.getElementById('map-tip').hidden")


def lines(page):
    return page.run(
        "[...document.querySelectorAll('#map-list .item')].sort((a, b) => parseInt(a.style.top) - "
        "parseInt(b.style.top)).map(e => e.querySelector('b').textContent).join(' ')"
    )


def test_the_list_follows_the_order_and_shows_clusters(page):
    assert lines(page) == "#5 #4 #7 #3", "in the order of the line"
    marked = "document.querySelector('#map-list [aria-selected=true] b').textContent"
    assert page.run(marked) == "#7" and "cluster 0, with #3 of 4,096" in words(page, "map-chosen")
    page.run("[...document.querySelectorAll('#map-list .item b')].find(b => b.textContent === '#4').click()")
    assert page.run(marked) == "#4" and "in no cluster" in words(page, "map-chosen")
    page.run("document.getElementById('map-list').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp'}))")
    assert page.run(marked) == "#5" and words(page, "map-chosen").startswith("#5 of")
    page.run("[...document.querySelectorAll('#map-tools button')].find(b => b.textContent.includes('cluster')).click()")
    assert words(page, "map-keys") == "2 clusters, each in a colourin no cluster"
    page.run("[...document.querySelectorAll('#map-tools button')].find(b => b.textContent.startsWith('512')).click()")
    assert lines(page) == "#5 #4 #3", "a hidden dictionary is not listed"


def test_the_graph_is_drawn_and_tokens_are_escaped(page):
    assert page.run("document.querySelectorAll('figure svg g circle').length") == 3
    assert page.run("document.querySelectorAll('figure svg path title').length") >= 2
    assert page.run("document.querySelector('details b, details i, figure b') === null")
    assert page.run("document.querySelectorAll('details [dir=rtl]').length") == 3
