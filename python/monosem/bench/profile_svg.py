"""The profile of a run as a picture: a bar per phase, its floor inside."""

from __future__ import annotations

from html import escape
from typing import Any

from monosem.bench.show import figure
from monosem.svg import bar, picture

LEFT, WIDTH, LINE = 170.0, 480.0, 26.0
SHOWN = 0.002  # share of a step below which a phase has no bar of its own


def draw(profile: dict[str, Any]) -> str:
    """The SVG of what ``profile.measure`` returns."""
    step, shape, threads = profile["step"], profile["shape"], profile["machine"]["threads"]
    title = (
        f"{profile['kind']} SAE, {shape['f']:,} features of width {shape['d']:,}, {shape['n']:,} tokens per step; "
        f"{profile['machine']['cpu']}, {threads} thread{'s' if threads != 1 else ''}"
    )
    figures = {"one step": step["ms"], "floor of its phases": step["floor_ms"]}
    figures["waiting for activations"] = profile["data_ms"]
    headline = [(name, f"{figure(ms)} ms") for name, ms in figures.items() if ms is not None]
    parts = [
        f'<text x="{30 + 215 * i}" y="66">{name}</text><text class="big" x="{30 + 215 * i}" y="94">{value}</text>'
        for i, (name, value) in enumerate(headline)
    ]
    floors = any(row["floor_ms"] for row in profile["phases"])
    parts.append('<text class="head" x="30" y="138">Milliseconds per phase</text>')
    if floors:
        parts += [bar(LEFT + 80, 129, 10, 10), f'<text x="{LEFT + 96}" y="138">measured</text>']
        parts += [bar(LEFT + 170, 129, 10, 10, "pale"), f'<text x="{LEFT + 186}" y="138">floor of this machine</text>']
    rows = [row for row in profile["phases"] if row["share"] >= SHOWN]
    longest = max(max(row["ms"], row["floor_ms"] or 0.0) for row in rows) or 1.0
    for i, row in enumerate(rows):
        y = 154 + LINE * i
        length, floor_length = WIDTH * row["ms"] / longest, WIDTH * (row["floor_ms"] or 0.0) / longest
        label = f"{figure(row['ms'])} ms, {row['share']:.1%}"
        label += f", {figure(row['to_floor'])} × floor" if row["to_floor"] else ""
        parts += [
            f'<text class="name end" x="{LEFT - 10}" y="{y + 13}">{escape(row["name"])}</text>',
            bar(LEFT, y, max(length, 1.0), 12),
            *([bar(LEFT, y + 12, max(floor_length, 1.0), 5, "pale")] if row["floor_ms"] else []),
            f'<text x="{LEFT + max(length, floor_length, 1.0) + 8:.1f}" y="{y + 13}">{label}</text>',
        ]
    y = 154 + LINE * len(rows) + 24
    for line in profile["words"]:
        parts.append(f'<text x="30" y="{y:.0f}">{escape(line)}</text>')
        y += 18
    return picture(title, parts, y + 6)
