"""A section of the evidence: what the paper claims, what was found here, and the page they stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from monosem.analysis.evidence import numbers
from monosem.analysis.evidence.recipes import BEYOND, RECIPES, WORDS
from monosem.analysis.report.page import embed
from monosem.analysis.sources import paper_groups
from monosem.data import files

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Finding:
    """One line of the table *claim – the paper's figure – ours – how measured*. Plain text, no HTML.

    ``#12`` in it becomes a link to that feature, ``#12 of B`` to that of the section's dictionary B.
    """

    claim: str
    paper: str | None  # None: the paper has no figure for such a text
    ours: str
    how: str  # definition of the figure, and the command that computes it


@dataclass(frozen=True)
class Section:
    """One line of evidence.

    Attributes:
        anchor: its id in the page.
        title, intro: plain text.
        findings: lines of the table of claims.
        body: HTML, everything in it escaped already (``html.escape``); charts from ``evidence.chart``.
        script: JavaScript for this section, run once after the page has loaded; its own function scope.
        paper: whether the text is one that the paper's figures can stand beside (:func:`papers_setting`); else they are
            left out.
        dictionaries: names of the dictionaries whose features it numbers ("" is the page's own).
    """

    anchor: str
    title: str
    intro: str
    findings: tuple[Finding, ...]
    body: str
    script: str = ""
    paper: bool = True
    dictionaries: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        if not self.paper:
            object.__setattr__(self, "findings", tuple(replace(f, paper=None) for f in self.findings))


def numbered_in(section: Section, dictionary: str) -> Section:
    """The section with its own dictionary by this name: for a page on which "" is another."""
    return replace(
        section, body=numbers.belonging(section.body, dictionary), dictionaries=(*section.dictionaries, dictionary)
    )


def papers_setting(result: Mapping[str, Any]) -> bool:
    """Whether a result comes from text with one of the paper's labels (``sources.LABELS``), as the shipped text does.

    A result stored before sources were kept with it counts as the paper's.
    """
    sources = result.get("sources")
    return sources is None or bool(paper_groups(sources))


def render_page(
    title: str,
    sections: Sequence[Section],
    intro: str = "",
    notes: Sequence[str] = (),
    places: Mapping[str, str] | None = None,
    browsers: Mapping[str, str] | None = None,
) -> str:
    """One HTML page, nothing loaded from anywhere: the table of claims, then the sections.

    Each section shows the command for another model, where ``recipes`` knows its anchor.

    Args:
        intro: HTML that opens the page.
        notes: sentences on how everything was made, at the end.
        places: values of the capitals of the commands (``recipes.WORDS``) here: {"RUN": "dictionaries/A-1"}.
        browsers: {dictionary: address of its browser of features}; numbers of features become links to it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    dictionaries = {of: "" for s in sections for of in s.dictionaries} | dict(browsers or {})
    environment.filters["numbered"] = lambda text: Markup(numbers.plain(text, dictionaries))
    page = environment.get_template("page.html").render(
        title=title,
        sections=sections,
        intro=intro,
        notes=notes,
        today=date.today().isoformat(),
        recipes=RECIPES | BEYOND,
        words=WORDS,
        places=places or {},
        browsers=embed(dictionaries),
        paper=any(f.paper is not None for s in sections for f in s.findings),
        style=(_HERE.parent / "report" / "style.css").read_text(encoding="utf-8")
        + (_HERE / "section.css").read_text(encoding="utf-8"),
    )
    return numbers.link(page, dictionaries)


def write_page(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    intro: str = "",
    notes: Sequence[str] = (),
    places: Mapping[str, str] | None = None,
    browsers: Mapping[str, str] | None = None,
) -> Path:
    """Write the HTML of :func:`render_page` atomically; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, render_page(title, sections, intro, notes, places, browsers))
    return path
