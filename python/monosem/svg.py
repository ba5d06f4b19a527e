"""A picture as one SVG file that follows the reader's light or dark scheme: its frame, its style and its bars."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

STYLE = """
 :root { --paper:#fbfaf7; --ink:#1d1c1a; --soft:#6a665e; --line:#e0dbd0; --plot:#c2570c; --pale:#efc9a6 }
 @media (prefers-color-scheme: dark) {
  :root { --paper:#131517; --ink:#e9e6e0; --soft:#a09b91; --line:#33373b; --plot:#f0904a; --pale:#6d4527 }
 }
 text { font: 12px system-ui, "Segoe UI", Arial, sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums }
 .big { font: 600 25px Georgia, serif; fill: var(--ink) } .head { font: 600 14px Georgia, serif; fill: var(--ink) }
 .name { fill: var(--ink) } .end { text-anchor: end } .mid { text-anchor: middle }
 .bar { fill: var(--plot) } .pale { fill: var(--pale) } line { stroke: var(--line) }
"""


def picture(title: str, parts: Iterable[str], height: float, width: float = 900) -> str:
    """A file: paper, the title in its first line, and the parts. The middle of a title that is too long is left out."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{STYLE}</style>\n'
        f'<rect width="{width:.0f}" height="{height:.0f}" style="fill:var(--paper)"/>\n'
        f'<text x="30" y="34">{escape(_fitting(title, width - 60))}</text>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _fitting(text: str, width: float) -> str:
    """The text in at most so many pixels: names of models may be long paths."""
    longest = int(width / 6.4)  # a character of this style is at most so wide, on average
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def bar(x: float, y: float, width: float, height: float, kind: str = "bar") -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5"/>'
