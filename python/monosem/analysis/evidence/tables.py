"""Tables of the evidence: a header and rows, or words where there is nothing to list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


def figure(value: float | None, form: str = ".2f") -> str:
    """A figure as text; "n/a" for one that there is not (None or NaN)."""
    return "n/a" if value is None or not math.isfinite(value) else format(value, form)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str, figures: Sequence[int] = ()) -> str:
    """A table that scrolls by itself; where there are no rows ``empty``, a sentence that says so.

    Args:
        heads: plain text.
        rows: cells as HTML, escaped already; as many as there are heads.
        figures: numbers of the columns that hold figures, set to the right.
    """
    if not rows:
        return f'<p class="note">{escape(empty)}</p>'
    for row in rows:
        if len(row) != len(heads):
            raise ValueError(f"rows: got a row of {len(row)} cells; wanted {len(heads)}, one a head")
    kind = [' class="n"' if i in figures else "" for i in range(len(heads))]
    head = "".join(f"<th{k}>{escape(h)}</th>" for k, h in zip(kind, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{c}</td>" for k, c in zip(kind, row, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
