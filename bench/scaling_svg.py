"""The picture of ``bench/scaling.py``: milliseconds of a step by phase, and the bytes that a process sends in it.

python bench/scaling_svg.py bench/results/scaling.json docs/scaling.svg    from a result that is there
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from monosem import svg

EXCHANGE, REST = "exchange", "between the phases"
LEFT, TIME, GAP, BYTES, ROW = 220, 400, 130, 210, 30


def spans(row: dict[str, Any]) -> list[tuple[str, float]]:
    """The phases of a step in milliseconds: encoding, the other work, the exchange, and what is between phases."""
    phases = row["phases"]
    other = sum(ms for name, ms in phases.items() if name not in ("encode", EXCHANGE))
    found = [("encode", phases["encode"]), ("decode, gradients, Adam", other), (EXCHANGE, phases.get(EXCHANGE, 0.0))]
    return [*found, (REST, max(0.0, row["ms"] - sum(ms for _, ms in found)))]


def label(row: dict[str, Any]) -> str:
    more = ", more than cores" if row["oversubscribed"] else ""
    return f"{row['processes']} × {row['name'].split(', ')[-1]}{more}" if row["processes"] > 1 else row["name"]


def picture(result: dict[str, Any]) -> str:
    """The SVG file."""
    rows = result["scaling"]
    most = max(row["ms"] for row in rows)
    widest = max([row["model_bytes"] for row in rows] + [1.0])
    fills = ("var(--plot)", "var(--pale)", "var(--soft)", "var(--line)")
    x, parts = float(LEFT), []
    for (name, _), fill in zip(spans(rows[0]), fills, strict=True):
        parts.append(f'<rect x="{x:.0f}" y="52" width="10" height="10" style="fill:{fill}"/>')
        parts.append(f'<text x="{x + 15:.0f}" y="61">{name}</text>')
        x += 34 + 6.3 * len(name)
    right = LEFT + TIME + GAP
    parts.append(f'<text class="name" x="{LEFT}" y="86">milliseconds of a step</text>')
    parts.append(f'<text class="name" x="{right}" y="86">MB that a process sends in it</text>')
    y = 96.0
    for part in ("one process", "strong", "weak"):
        own = [row for row in rows if row["name"].startswith(part)]
        for i, row in enumerate(own):
            heading = "" if i or part == "one process" else f"{part}: "
            parts.append(f'<text class="name end" x="{LEFT - 10}" y="{y + 14:.0f}">{heading}{label(row)}</text>')
            at = float(LEFT)
            for (_, ms), fill in zip(spans(row), fills, strict=True):
                width = TIME * ms / most
                parts.append(
                    f'<rect x="{at:.1f}" y="{y:.0f}" width="{width:.1f}" height="{ROW - 11}" style="fill:{fill}"/>'
                )
                at += width
            parts.append(f'<text x="{at + 6:.1f}" y="{y + 14:.0f}">{row["ms"]:.0f}</text>')
            parts.append(svg.bar(right, y, BYTES * row["sent_bytes"] / widest, ROW - 11))
            end = right + BYTES * row["sent_bytes"] / widest + 6
            parts.append(f'<text x="{end:.1f}" y="{y + 14:.0f}">{row["sent_bytes"] / 1e6:.1f}</text>')
            y += ROW
    shape = result["shape"]
    title = f"TopK, {shape['tokens']:,} tokens of width {shape['d_in']}, one thread per process, on one machine"
    return svg.picture(title, parts, height=y + 16, width=right + BYTES + 60)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(picture(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), encoding="utf-8")
