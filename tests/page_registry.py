"""Every page that the project writes: its command, its module, and its required contents.

``tests/test_pages.py`` opens them all, and fails for a writer, a template or a section that is not named here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chromium import Tab

Counts = dict[str, int]  # CSS selector → how many elements the data call for


@dataclass(frozen=True)
class Page:
    """
    Attributes:
        path: below the folder of its command.
        writers: modules of the package that have it written.
        counts: from the page's path, what the data call for.
        sections: anchors of the evidence that stand on it.
        visit: goes on from the opened page: all its views.
    """

    path: str
    writers: tuple[str, ...]
    counts: Callable[[Path], Counts]
    sections: tuple[str, ...] = ()
    visit: Callable[[Tab], None] = lambda tab: None


def record(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def embedded(page: Path) -> Any:
    """The JSON that a page carries."""
    return json.loads(
        re.search(r'<script[^>]*id="(?:data|meta)"[^>]*>(.*?)</script>', page.read_text("utf-8"), re.S)[1]
    )


# ---- what each section draws from its result
def _proxies(r: Mapping[str, Any]) -> Counts:
    units = sum(1 + (p["neuron"] is not None) for p in r["proxies"])  # two histograms each
    return {"h3": len(r["proxies"]), "tbody tr": units, "svg": 1 + len(r["proxies"]) + 2 * units}


def _rubric(r: Mapping[str, Any]) -> Counts:
    return {"svg": 1, "tbody tr": len(r["kinds"]) + len(r["items"])}


def _explain(r: Mapping[str, Any]) -> Counts:
    tasks = ("simulation", "weighted", "detection", "fuzzing")
    drawn = sum(any(i["scores"][t] is not None for i in r["items"]) for t in tasks)
    return {"svg": drawn, "tbody tr": len(r["kinds"]), "article.told": len(r["items"])}


def _neurons(r: Mapping[str, Any]) -> Counts:
    return {"svg": 2, "tbody tr": len(r["named"]) + len(r["nearest"])}


def _steering(r: Mapping[str, Any]) -> Counts:
    samples = sum(len(run["samples"]) for c in r["cases"] for run in c["runs"])
    return {"h3": len(r["cases"]), "svg": 2 * len(r["cases"]), ".sample": len(r["cases"]) + 2 * samples}


def _splitting(r: Mapping[str, Any]) -> Counts:
    lists = len({n["level"] for n in r["listed"]})  # of the label's features, one for each dictionary that has some
    nodes = len(r["nodes"])
    return {"svg": 1 + len(r["steps"]), "details": nodes + lists, "canvas": 1, "figure g circle": nodes}


def _automata(r: Mapping[str, Any]) -> Counts:
    paths = [p for kind in ("loops", "cycles", "chains") for p in r[kind]]
    return {".card": len(paths), ".card > svg": len(paths), "tbody tr": sum(len(p["edges"]) for p in paths)}


def _probing(r: Mapping[str, Any]) -> Counts:
    return {"svg": 2, "tbody tr": len(r["tasks"])}


SECTIONS: dict[str, Callable[[Any], Counts]] = {
    "loss": lambda r: {"svg": 1},
    "proxies": _proxies,
    "rubric": _rubric,
    "explain": _explain,
    "explain-logits": lambda r: {"svg": 1, "tbody tr": len(r["kinds"])},
    "neurons": _neurons,
    "steering": _steering,
    "universality": lambda r: {"svg": 4, "tbody tr": len(r["comparisons"]) + len(r["examples"])},
    "splitting": _splitting,
    "widths": lambda r: {"svg": 3 + len(r["runs"]), "tbody tr": len(r["runs"])},
    "automata": _automata,
    "probing": _probing,
}
EVIDENCE = tuple(anchor for anchor in SECTIONS if anchor != "probing")  # the sections of a reproduction


def _within(anchor: str, result: Any) -> Counts:
    return {f"#{anchor} {selector}": n for selector, n in SECTIONS[anchor](result).items()}


def claim(stem: str, writer: str, *anchors: str) -> Page:
    """A page of one claim, with its result as JSON beside it."""

    def counts(page: Path) -> Counts:
        result = record(page.with_suffix(".json"))
        return {k: n for anchor in anchors for k, n in _within(anchor, result).items()}

    return Page(f"{stem}.html", (writer,), counts, anchors)


# ---- the other pages
def _report(page: Path) -> Counts:
    data = embedded(page)
    # Loss, L0 and dead features; the squared error only where it is not the loss.
    return {
        "article.card": len(data["cards"]),
        "article.card .body svg": sum(bool(c["histogram"]["counts"]) for c in data["cards"]),
        "article.card .examples > .line": sum(len(c["top"]) for c in data["cards"]),
        "article.card li": sum(len(c["positive"]) + len(c["negative"]) for c in data["cards"]),
        "#groups button": len(data["groups"]),
        "#panels article": len(data["labels"]),
        "#labels tbody tr": len(data["labels"]),
        "#sources tbody tr": len(data["evaluation"]["by_source"]),
        "#scatter circle": sum(n > 0 for n in data["overview"]["count"]),
        "#scatter a": len(data["cards"]),
        "#density rect": sum(n > 0 for n in data["evaluation"]["density_counts"]),
        "#curves svg": 3 if data["curves"] else 0,
    }


def _read_report(tab: Tab) -> None:
    """Every card's further examples, the search, a group, and a link to a card that they hid."""
    tab.run("document.querySelectorAll('article.card details').forEach((d) => { d.open = true; })")
    tab.wait("[...document.querySelectorAll('article.card details')].every((d) => d.childElementCount === 5)")
    _type(tab, "nothing like it")
    assert tab.count("article.card:not([hidden])") == 0
    first = tab.run("document.querySelector('article.card').id")
    tab.run(f"location.hash = '#{first}'")
    tab.wait(f"!document.getElementById('{first}').hidden && document.getElementById('search').value === ''")
    tab.run("document.querySelector('#groups button').click()")
    assert tab.count("article.card:not([hidden])") > 0


def _type(tab: Tab, query: str) -> None:
    tab.run(
        f"(() => {{ const box = document.getElementById('search'); box.value = {json.dumps(query)}; "
        "box.dispatchEvent(new Event('input')); })()"
    )


def _evidence(page: Path) -> Counts:
    """The report of a reproduction: its sections from the results beside it."""
    folder, out = page.parent / "evidence", {}
    for anchor in EVIDENCE:
        stem = {"explain-logits": "explain", "automata": "automata-A-0"}.get(anchor, anchor)
        if anchor == "rubric":  # not rated yet
            out["#rubric a"] = 1
        else:
            out |= _within(anchor, None if anchor == "loss" else record(folder / f"{stem}.json"))
    whole = record(page.with_name("report.json"))
    return out | {
        "#claims tbody tr:not(.part)": len(whole["findings"]),
        ".masthead tbody tr": len(whole["dictionaries"]),
        ".contents a": 1 + len(EVIDENCE),
    }


def _site(page: Path) -> Counts:
    return {"#source option": 1 + len(embedded(page)["sources"])}


def _browse(tab: Tab) -> None:
    """The list, a feature's page, a search, a prompt, the help."""
    ready = "document.documentElement.dataset.ready"
    tab.wait(f"{ready} && document.querySelectorAll('#list .item').length > 5")
    number = tab.run("document.querySelector('#list .item b').textContent")
    tab.run(f"location.hash = '{number}'")
    tab.wait(f"{ready} === '{number}'")
    assert tab.count(".level") == 11 and tab.count("#body .line") > 5 and tab.count("#body svg") == 1
    for query, minimum in ((number, 1), ("zzzz", 0)):
        _type(tab, query)
        tab.wait(f"document.getElementById('count').textContent.startsWith('{minimum} of')")
    tab.run("location.hash = '#p0'")
    tab.wait(f"{ready} === '#p0'")
    assert tab.count(".text.prompt .tok") > 1 and tab.count("#body .rel") > 0
    tab.run("document.getElementById('help-button').click()")
    assert tab.run("document.getElementById('help').open")


def _rate(page: Path) -> Counts:
    data = embedded(page)
    return {"#items button": len(data["items"]), ".interval": data["intervals"], "#positive li": 10}


def _picture(page: Path) -> Counts:
    return {"svg": 1}


REPORT = {"counts": _report, "visit": _read_report}
# Command → the pages it writes.
PAGES: dict[str, tuple[Page, ...]] = {
    "demo": (Page("report.html", ("cli/demo.py",), **REPORT), Page("evaluation.svg", ("cli/demo.py",), _picture)),
    "evaluate": (
        Page("report.html", ("cli/evaluate.py",), **REPORT),
        Page("evaluation.svg", ("cli/evaluate.py",), _picture),
    ),
    "profile": (Page("profile.svg", ("cli/profile.py",), _picture),),
    "proxies": (claim("proxies", "cli/proxies.py", "proxies"),),
    "probe": (claim("probing", "cli/probe.py", "probing"),),
    "neurons": (claim("neurons", "cli/neurons.py", "neurons"),),
    "automata": (claim("automata", "cli/automata.py", "automata"),),
    "widths": (claim("widths", "cli/widths.py", "widths"),),
    "explain": (claim("explain", "cli/explain.py", "explain", "explain-logits"),),
    "rate": (Page("rate.html", ("cli/rate.py",), _rate), claim("rubric", "cli/rate.py", "rubric")),
    "steer": (claim("steering", "cli/steer.py", "steering"),),
    "compare": (claim("universality", "cli/compare.py", "universality"),),
    "split": (claim("splitting", "cli/split.py", "splitting"),),
    "features": (Page("index.html", ("cli/features.py",), _site, visit=_browse),),
    "reproduce": (
        Page("report.html", ("reproduce/page.py", "cli/reproduce.py"), _evidence, EVIDENCE),
        Page("rate/rate.html", ("reproduce/stages.py",), _rate),
        Page("features/index.html", ("reproduce/stages.py",), _site, visit=_browse),
    ),
}
ALL = [(command, page) for command, pages in PAGES.items() for page in pages]
