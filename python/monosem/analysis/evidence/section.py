"""A section of the evidence: what the paper claims, what was found here, and the page they stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from monosem.analysis.evidence.guide import GUIDES, WORDS
from monosem.data import files

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Finding:
    """One line of the table *claim – the paper's figure – ours – how measured*. Plain text, no HTML."""

    claim: str
    paper: str
    ours: str
    how: str  # what the figure is, and the command that gives it


@dataclass(frozen=True)
class Section:
    """One line of evidence.

    Attributes:
        anchor: its id in the page.
        title, lede: plain text.
        findings: lines of the table of claims.
        body: HTML, everything in it escaped already (``html.escape``); charts from ``evidence.chart``.
        script: JavaScript for this section, run once after the page has loaded; its own function scope.
    """

    anchor: str
    title: str
    lede: str
    findings: tuple[Finding, ...]
    body: str
    script: str = ""


def render_page(
    title: str, sections: Sequence[Section], intro: str = "", notes: Sequence[str] = (),
    places: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """One HTML page, nothing loaded from anywhere: the table of claims, then the sections.

    Each section says how to get it for another model, where ``guide.GUIDES`` knows its anchor.

    Args:
        intro: HTML that opens the page.
        notes: sentences on how everything was made, at the end.
        places: what the capitals of the commands (``guide.WORDS``) were here: {"RUN": "dictionaries/A-1"}.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template("page.html").render(
        title=title, sections=sections, intro=intro, notes=notes, today=date.today().isoformat(),
        guides=GUIDES, words=WORDS, places=places or {},
        style=(_HERE.parent / "report" / "style.css").read_text(encoding="utf-8")
        + (_HERE / "section.css").read_text(encoding="utf-8"),
    )  # fmt: skip


def write_page(
    path: str | Path, title: str, sections: Sequence[Section], intro: str = "", notes: Sequence[str] = (),
    places: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write :func:`render_page`'s HTML whole; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, render_page(title, sections, intro, notes, places))
    return path
