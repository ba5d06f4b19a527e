"""How tokens and text are shown: white space made visible, the background by activation.

The colour is one rule of ``report/style.css`` (``.lit``). Pages that are drawn in the browser use ``draw.token`` and
``draw.write`` of ``report/draw.js``, with the same marks and the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from monosem.analysis.windows import Window

MARKS = {"\n": "↵", "\t": "⇥", "\r": "␍"}  # as in draw.js


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
    spans = [
        span(text, value / (maximum or 1.0), tip=f"{value:.3g}" if value else "", focus=focus)
        for text, value, focus in example["pieces"]
    ]
    return row(spans, example["right_to_left"], f"{example['source']} {example['value']:.2f}")


def lines(examples: Sequence[Mapping[str, Any]], maximum: float) -> str:
    """Several examples, one below the other."""
    return "".join(line(e, maximum) for e in examples)


def row(spans: Sequence[str], right_to_left: bool, beside: str) -> str:
    """Tokens (:func:`span`) as a line of the page, with plain text beside them."""
    direction = "rtl" if right_to_left else "ltr"
    return (
        f'<div class="line"><div class="text" dir="{direction}">{"".join(spans)}</div>'
        f'<div class="src">{escape(beside)}</div></div>'
    )


def span(text: str, share: float, *, tip: str = "", focus: bool = False, style: str = "", breaks: bool = False) -> str:
    """One token of a text.

    Args:
        share: activation / maximum; the background is transparent at 0.
        tip: shown while the pointer is on the token.
        focus: the example's own token, underlined.
        style: further CSS declarations.
        breaks: also break the line after the mark of a line feed.
    """
    lit = f"--v:{min(1.0, share):.2f}" if share > 0 else ""
    declarations = ";".join(filter(None, (lit, style)))
    return (
        f'<span class="tok{" lit" if lit else ""}{" focus" if focus else ""}"'
        + (f' style="{declarations}"' if declarations else "")
        + (f' title="{escape(tip)}"' if tip else "")
        + f">{running(text, breaks)}</span>"
    )


def running(text: str, breaks: bool = False) -> str:
    """Text as HTML, tabs and line ends as marks, spaces as they are; ``breaks``: and a line feed after its mark."""
    return "".join(
        f'<span class="ghost">{MARKS[c]}</span>{c if breaks and c == chr(10) else ""}' if c in MARKS else escape(c)
        for c in text
    )


def one_line(text: str) -> str:
    """Plain text with marks for tabs and line ends."""
    return text.translate(str.maketrans(MARKS))


def token(text: str) -> str:
    """A token of the vocabulary as plain text, its white space visible."""
    return one_line(text).replace(" ", "␣") or "∅"


def bdi(text: str) -> str:
    """:func:`token` as HTML, its direction kept from its neighbours."""
    return f"<bdi>{escape(token(text))}</bdi>"
