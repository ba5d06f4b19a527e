"""The picture of ``bench/planted.py``: absorption and F1 of each kind, a dot per seed."""

from __future__ import annotations

from typing import Any

from monosem import svg

PANELS = (("absorption", "absorption of parents, share of tokens (less is better)"), ("f1", "F1 of detection"))
LEFT, WIDTH, STEP, ROW = 150, 310, 400, 26


def bars(kinds: list[dict[str, Any]]) -> str:
    """The SVG file: a row per kind, a panel per figure; the bar is the mean over seeds."""
    parts = []
    for i, (figure, heading) in enumerate(PANELS):
        x = LEFT + i * STEP
        most = max((run[figure] or 0.0 for row in kinds for run in row["runs"]), default=0.0) or 1.0
        parts.append(f'<text class="name" x="{x}" y="64">{heading}</text>')
        for j, row in enumerate(kinds):
            y, mean = 78 + j * ROW, row["summary"][figure]["mean"]
            if not i:
                parts.append(f'<text class="name end" x="{LEFT - 10}" y="{y + 13}">{row["name"]}</text>')
            parts.append(svg.bar(x, y, WIDTH * mean / most, ROW - 9, "pale"))
            parts += [
                f'<circle class="bar" cx="{x + WIDTH * (run[figure] or 0.0) / most:.1f}" cy="{y + 8.5}" r="3"/>'
                for run in row["runs"]
            ]
            parts.append(f'<text x="{x + WIDTH + 8}" y="{y + 13}">{mean:.3f}</text>')
    title = "A planted dictionary with a hierarchy: equal tokens, equal L0, a dot per seed"
    return svg.picture(title, parts, height=96 + ROW * len(kinds), width=LEFT + 2 * STEP - 10)
