"""A full reproduction on tiny models: every claim gets its section, and a second start only writes the page again."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from monosem.data import files
from monosem.reproduce import presets

CLAIMS = (
    "loss",
    "rubric",
    "proxies",
    "explain",
    "neurons",
    "steering",
    "universality",
    "splitting",
    "widths",
    "automata",
)


def test_every_claim_on_one_page(reproduction, capsys):
    out = reproduction.out
    page = (out / "report.html").read_text()
    record = json.loads((out / "report.json").read_text())
    assert [r["name"] for r in record["dictionaries"]] == ["A/0", "A/1", "A/2", "B/1", "shuffled/1"]
    for anchor in CLAIMS:
        assert f'<section id="{anchor}' in page, anchor
    assert page.count("<h2>") >= len(CLAIMS) + 1
    for finding in record["findings"]:
        assert finding["ours"] and finding["how"] and finding["command"].startswith("monosem "), finding
    assert "Words on this page" in page and "The same for a model of yours" in page
    for place in ("dictionaries/A-1", "dictionaries/A-0 dictionaries/A-1 dictionaries/A-2", "dictionaries/shuffled-1"):
        assert f"Here: <code>{place}</code>" in page, "what RUN was here"
    for link in ("rate/rate.html", "features/index.html"):
        assert f'href="{link}"' in page and (out / link).is_file()

    stamps = {p: p.stat().st_mtime_ns for p in (out / "evidence").iterdir()}
    (out / "report.html").unlink()
    assert reproduction.run() == 0
    assert {p: p.stat().st_mtime_ns for p in (out / "evidence").iterdir()} == stamps
    assert (out / "report.html").read_text() == page
    assert "done before" in capsys.readouterr().out


def test_a_page_of_what_is_done(reproduction, tmp_path):
    """After each stage; what is missing is named, and nothing is linked that is not there."""
    out = tmp_path / "out"
    shutil.copytree(reproduction.out, out, ignore=shutil.ignore_patterns("features", "rate", "report.*"))
    for name in ("explain", "rate", "features", "dictionary-A-2", "splitting", "widths"):
        (out / "evidence" / f"{name}.json").unlink()
    seen = []

    def write(path, text):
        write_text(path, text)
        if path.name == "report.json":
            seen.append((json.loads(text), (out / "report.html").read_text() if seen else ""))

    write_text = files.write_text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_text", write)
        assert replace(reproduction, out=out).run() == 0
    record, _ = seen[0]
    assert record["missing"] == ["rate", "features", "dictionary-A-2", "splitting", "widths"]
    assert [r["name"] for r in record["dictionaries"]] == ["A/0", "A/1", "B/1", "shuffled/1"]
    assert [len(r["missing"]) for r, _ in seen] == [5, 4, 3, 2, 1, 0, 0]
    page = seen[1][1]  # before ``rate`` had ended
    assert "<b>Not finished:</b> 5 of 19 stages are missing" in page and "<li>how features split</li>" in page
    assert 'href="rate/rate.html"' not in page and 'href="features/index.html"' not in page
    assert '<section id="explain"' in page and '<section id="splitting"' not in page
    pages = [(folder / "report.html").read_text() for folder in (out, reproduction.out)]
    # Stages that were run again took a time of their own.
    assert len({re.sub(r"took \d+ minutes", "", page) for page in pages}) == 1 and "minutes" in pages[0]


def test_hand_ratings_are_included_in_the_report(tmp_path):
    from monosem.reproduce.context import Context
    from monosem.reproduce.page import _human

    context = Context(tmp_path, presets.SMALL)
    assert _human(context).findings[0].ours == "not rated yet"
