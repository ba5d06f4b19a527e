"""The page: blind, complete, and usable from disk in a real browser."""

import json
import re
import time

import pytest
from ruled import RULES, ruled_index, ruled_rows, ruled_subject

from monosem.analysis.evidence.rate import candidates, measure, write_study
from monosem.analysis.evidence.rate.steps import STEPS


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(folder of the page, its key, the candidates)."""
    folder = tmp_path_factory.mktemp("study")
    subject, rows = ruled_subject(), ruled_rows(120)
    index = ruled_index(subject, rows)
    items = candidates(subject, index, rows, range(len(RULES)), "features", per_interval=3)
    items += candidates(subject, index, rows, [0, 2], "neurons", per_interval=3)
    write_study(folder, items, seed=3)
    return folder, json.loads((folder / "rate.key.json").read_text()), items


def embedded(folder):
    page = (folder / "rate.html").read_text(encoding="utf-8")
    return page, json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1])


def test_candidates_show_shares_of_the_maximum(study):
    _, _, items = study
    graded = items[2].shown
    assert len(graded["intervals"]) == 11 and len(graded["positive"]) == 10
    of_interval = [{line["pieces"][line["focus"]][1] for line in lines} for lines in graded["intervals"]]
    assert of_interval[0] == {1.0} and of_interval[8] == {0.25} and not of_interval[5]
    assert all(len(lines) <= 3 for lines in graded["intervals"])
    assert graded["positive"][0][1] == 1.0 and all(t.isdigit() for t, _ in graded["positive"])
    assert any(line["rtl"] for line in items[1].shown["intervals"][0])


def test_the_page_hides_the_kind_of_each_item(study):
    folder, key, items = study
    page, data = embedded(folder)
    assert data.keys() == {"study", "format", "items", "intervals", "steps"}
    assert all(item.keys() == {"intervals", "positive"} for item in data["items"])
    assert "neuron" not in page.lower() and '"kind"' not in page and '"feature"' not in page
    kinds = [key["items"][str(n)]["kind"] for n in range(1, 8)]
    assert sorted(kinds) == ["features"] * 5 + ["neurons"] * 2 and kinds != sorted(kinds)
    assert key["study"] == data["study"]
    for n, shown in enumerate(data["items"], 1):
        what = key["items"][str(n)]
        mine = next(c for c in items if (c.kind, c.feature) == (what["kind"], what["feature"]))
        assert json.loads(json.dumps(mine.shown)) == shown
    assert not re.search(r'(src|href)="', page), "the page loads nothing"


def test_the_same_seed_gives_the_same_page(study, tmp_path):
    folder, key, items = study
    write_study(tmp_path, items, seed=3)
    assert (tmp_path / "rate.html").read_bytes() == (folder / "rate.html").read_bytes()
    write_study(tmp_path, items, seed=4)
    assert json.loads((tmp_path / "rate.key.json").read_text())["items"] != key["items"]
    with pytest.raises(ValueError, match="got none"):
        write_study(tmp_path, [])


def test_items_are_rated_saved_resumed_and_scored_in_a_browser(study, tmp_path, browser):
    folder, key, _ = study
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with browser.tab() as tab:
        tab.downloads_to(downloads)
        tab.open(folder / "rate.html")
        assert tab.run("document.title") == "7 items to rate"
        assert tab.run("document.querySelectorAll('.interval').length") == 11
        arabic = next(int(n) for n, what in key["items"].items() if what["feature"] == RULES.index("script"))
        tab.run(f"document.querySelector('#items button:nth-child({arabic})').click()")
        assert tab.run("document.querySelectorAll('.snip[dir=rtl]').length") > 0
        tab.run("document.querySelector('#items button').click()")
        # Item 1 by the keyboard: certain, every one, all (so no separation), narrow.
        for digit in "3533":
            tab.press(digit)
        assert tab.run("document.getElementById('points').textContent") == "14 of 14 points"
        assert tab.run("document.getElementById('step-separation').hidden")
        # Item 2 by the mouse, its hypothesis typed; separation is asked for.
        tab.press("ArrowRight")
        tab.run("document.getElementById('hypothesis').focus()")
        tab.call("Input.insertText", text="ספרות 123 <i>")
        tab.run("""document.getElementById('hypothesis').blur();
            const given = {confidence: 2, high: 4, logits: 1, separation: 1, specificity: 2};
            for (const [step, value] of Object.entries(given))
              document.querySelector(`#step-${step} [data-value="${value}"]`).click();
            document.querySelector('[data-fit$="-true"]').click()""")
        assert tab.run("document.getElementById('points').textContent") == "10 of 14 points"
        # Item 3: no pattern. Item 4 is begun and left open.
        tab.press("ArrowRight")
        tab.press("n")
        tab.press("ArrowRight")
        tab.press("1")
        assert tab.run("document.getElementById('progress').textContent") == "3 of 7 rated"
        # What was rated survives leaving the page.
        tab.open(folder / "rate.html")
        assert tab.run("document.getElementById('progress').textContent") == "3 of 7 rated"
        assert tab.run("document.getElementById('title').textContent") == "Item 4 of 7"
        tab.run("""const name = document.getElementById('annotator'); name.value = 'Ada';
            name.dispatchEvent(new Event('input')); document.getElementById('save').click()""")
        limit = time.monotonic() + 30
        while not (saved := list(downloads.glob("answers-*.json"))) and time.monotonic() < limit:
            time.sleep(0.05)
        assert tab.errors() == []
    answers = json.loads(saved[0].read_text(encoding="utf-8"))
    assert answers["study"] == key["study"] and answers["annotator"] == "Ada"
    assert answers["answers"]["2"]["hypothesis"] == "ספרות 123 <i>"
    assert list(answers["answers"]["2"]["fits"].values()) == [True]
    result = measure([answers], key)
    assert [i.points for i in result.items] == [14, 10, 0] and result.open == 4
    # In another browser, from the file; the file of another study is refused.
    other = tmp_path / "other.json"
    other.write_text(json.dumps(answers | {"study": "zzz"}))
    with browser.tab() as tab:
        tab.open(folder / "rate.html")
        assert tab.run("document.getElementById('progress').textContent") == "0 of 7 rated"
        tab.upload("#load", other)
        tab.wait("document.getElementById('note').textContent.includes('another study')")
        tab.upload("#load", saved[0])
        tab.wait("document.getElementById('progress').textContent === '3 of 7 rated'")
        assert tab.run("document.getElementById('annotator').value") == "Ada"
        tab.run("document.querySelector('#items button:nth-child(2)').click()")
        assert tab.run("document.getElementById('hypothesis').value") == "ספרות 123 <i>"
        assert tab.errors() == []


def test_the_steps_of_the_rubric_have_all_points():
    assert [s.name for s in STEPS] == ["confidence", "high", "logits", "separation", "specificity"]
    assert [s.max_points for s in STEPS] == [3, 5, 3, 1, 3]
