"""Small state graphs as inline SVG: a self-loop, a cycle, or a chain from left to right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from monosem.analysis.evidence import numbers

_NODE_W, _NODE_H = 148.0, 50.0
_ISOLATE = "\u2068{}\u2069"  # keeps a right-to-left token from reordering its neighbours


def draw(path: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """One automaton. ``name`` is a unique id in the page (letters, digits and hyphens)."""
    features, edges = path["features"], path["edges"]
    places, width, height = _places(len(features), path["closed"])
    where = dict(zip(features, places, strict=True))
    parts = [
        f'<defs><marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0,1L10,5L0,9z" style="fill:var(--soft)"/></marker></defs>'
    ]
    for e in edges:
        parts += _edge(where[e["from"]], where[e["to"]], e, name)
    for f in features:
        parts += _node(f, where[f], nodes[str(f)])
    label = " to ".join(map(str, features))
    return (
        f'<svg class="automaton" viewBox="0 0 {width:.0f} {height:.0f}" role="img" style="max-width:{width:.0f}px" '
        f'aria-label="features {label}">{"".join(parts)}</svg>'
    )


def _places(count: int, closed: bool) -> tuple[list[tuple[float, float]], float, float]:
    """Centres of the states, and the size of the picture."""
    if count == 1:
        return [(180.0, 130.0)], 360.0, 165.0
    if count == 2 or not closed:
        step = _NODE_W + 96
        return [(90 + i * step, 85.0) for i in range(count)], 180 + (count - 1) * step, 170.0
    across, down = 200.0, 105.0 if count == 3 else 120.0
    angles = [2 * math.pi * i / count - math.pi / 2 - (math.pi / 4 if count == 4 else 0) for i in range(count)]
    return [(300 + across * math.cos(a), 40 + down + down * math.sin(a)) for a in angles], 600.0, 2 * down + 80


def _node(feature: int, at: tuple[float, float], node: Mapping[str, Any]) -> list[str]:
    x, y = at
    tokens = _fit(node["tokens"], 21)
    tip = (
        f"feature {feature}: fires on {' '.join(node['tokens'])}; raises {' '.join(node['raises'])}; "
        f"{node['source_share']:.0%} of its firing in {node['source']}; active on {node['density']:.2%} of tokens"
    )
    parts = [
        f'<g><title>{escape(tip)}</title><rect x="{x - _NODE_W / 2:.1f}" y="{y - _NODE_H / 2:.1f}" width="{_NODE_W}" '
        f'height="{_NODE_H}" rx="9" style="fill:var(--card);stroke:var(--s0);stroke-width:1.4"/>',
        f'<text class="name" x="{x:.1f}" y="{y - 6:.1f}" text-anchor="middle" style="font-family:var(--mono)">'
        f"{escape(tokens)}</text>",
        f'<text x="{x:.1f}" y="{y + 13:.1f}" text-anchor="middle">#{feature} · {escape(node["source"])}</text></g>',
    ]
    return [numbers.feature(feature, shown="".join(parts))]


def _edge(a: tuple[float, float], b: tuple[float, float], edge: Mapping[str, Any], name: str) -> list[str]:
    """An arrow with the tokens that carry it and its probability."""
    if a == b:
        x, y = a[0], a[1] - _NODE_H / 2
        path = f"M{x - 34:.1f},{y:.1f}C{x - 62:.1f},{y - 78:.1f} {x + 62:.1f},{y - 78:.1f} {x + 34:.1f},{y - 2:.1f}"
        tx, ty, anchor = x, y - 78, "middle"
    else:
        (x1, y1), (x2, y2) = _border(a, b), _border(b, a)
        dx, dy = x2 - x1, y2 - y1
        length = math.hypot(dx, dy) or 1.0
        nx, ny = dy / length, -dx / length  # to the left of the way: two arrows between the same states stay apart
        bend = 0.0 if abs(dy) > 1 else 26.0
        mx, my = (x1 + x2) / 2 + nx * bend, (y1 + y2) / 2 + ny * bend
        path = f"M{x1:.1f},{y1 + ny * bend * 0.5:.1f}Q{mx:.1f},{my:.1f} {x2:.1f},{y2 + ny * bend * 0.5:.1f}"
        tx, ty = mx + nx * 12, my + ny * 14 + (4 if ny >= 0 else 0)
        anchor = "middle" if abs(nx) < 0.4 else "start" if nx > 0 else "end"
    tokens = _fit(edge["tokens"], 15)
    tip = (
        f"{edge['from']} to {edge['to']}: when the next token is one that {edge['from']} raises "
        f"({edge['raise_share']:.0%} of the time), {edge['to']} fires on it {edge['probability']:.0%} of the time "
        f"({edge['base']:.1%} of all tokens); {edge['support']:,} steps"
    )
    return [
        f'<g><title>{escape(tip)}</title><path d="{path}" marker-end="url(#{name})" '
        'style="fill:none;stroke:var(--soft);stroke-width:1.5"/>',
        f'<text x="{tx:.1f}" y="{ty:.1f}" text-anchor="{anchor}"><tspan style="font-family:var(--mono)">'
        f'{escape(tokens)}</tspan> <tspan class="name">{edge["probability"]:.0%}</tspan></text></g>',
    ]


def _border(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """Where the line from the centre of a state to another leaves its box."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    scale = min((_NODE_W / 2 + 3) / abs(dx) if dx else math.inf, (_NODE_H / 2 + 3) / abs(dy) if dy else math.inf)
    return a[0] + dx * scale, a[1] + dy * scale


def _fit(tokens: list[str], width: int) -> str:
    """As many tokens as fit into so many characters, each isolated from its neighbours' direction."""
    out, left = [], width
    for t in tokens:
        t = t if len(t) <= 12 else t[:11] + "…"
        if out and len(t) + 1 > left:
            break
        out.append(_ISOLATE.format(t))
        left -= len(t) + 1
    return " ".join(out)
