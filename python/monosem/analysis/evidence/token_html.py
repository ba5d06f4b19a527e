"""Examples of text in the evidence: as plain data that JSON can hold, and as the HTML of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from monosem.analysis.windows import Window

_SPACES = {"\n": "↵\n", "\t": "⇥\t"}


def as_dict(window: Window) -> dict[str, Any]:
    """``{"value", "source", "right_to_left", "pieces": [[text, activation, is the example's token], ...]}``."""
    return {
        "value": round(window.value, 4),
        "source": window.source,
        "right_to_left": window.right_to_left,
        "pieces": [[p.text, round(max(p.value, 0.0), 4), p.focus] for p in window.pieces],
    }


def line(example: Mapping[str, Any], maximum: float) -> str:
    """One example as a line of the page: shaded by activation, the example's token underlined."""
    parts = []
    for text, value, focus in example["pieces"]:
        shade = (
            f' style="background:rgba(var(--heat),{min(1.0, value / (maximum or 1.0)) * 0.75:.2f})"' if value else ""
        )
        shown = "".join(f'<span class="ghost">{_SPACES[c][0]}</span>' if c in _SPACES else escape(c) for c in text)
        tip = f' title="{value:.3g}"' if value else ""
        parts.append(f'<span class="tok{" focus" if focus else ""}"{shade}{tip}>{shown}</span>')
    direction = "rtl" if example["right_to_left"] else "ltr"
    return (
        f'<div class="line"><div class="text" dir="{direction}">{"".join(parts)}</div>'
        f'<div class="src">{escape(example["source"])} {example["value"]:.2f}</div></div>'
    )


def lines(examples: Sequence[Mapping[str, Any]], maximum: float) -> str:
    """Several examples, one below the other."""
    return "".join(line(e, maximum) for e in examples)


def token(text: str) -> str:
    """A token of the vocabulary for text and pictures: white space made visible."""
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍") or "∅"
