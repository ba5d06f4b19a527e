"""Charts as inline SVG: they follow the reader's light or dark scheme through the style sheet of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Series = Mapping[str, Sequence[float]]
Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]

_MANTISSAS = ((1,), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9))
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 620.0, 58.0, 12.0, 12.0, 44.0


@dataclass(frozen=True)
class _Axis:
    """A scale from data to pixels, linear or logarithmic (base 10)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def ticks(self) -> list[float]:
        if self.log:
            ticks: list[float] = []
            for mantissas in _MANTISSAS:  # powers of ten, and between them where there are fewer than three
                ticks = self._within(mantissas)
                if len(ticks) >= 3:
                    break
            if len(ticks) >= 3:
                return ticks[:: -(-len(ticks) // 10)]
            # less than a few tenths of a decade: as on a linear axis
        step = 10.0 ** math.floor(math.log10((self.high - self.low) or 1.0))
        step *= next(m for m in (0.2, 0.5, 1.0, 2.0) if (self.high - self.low) / (step * m) <= 6 or m == 2.0)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _within(self, mantissas: Sequence[int]) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        every = max(1, -(-len(decades) // 8)) if mantissas == (1,) else 1
        marks = [m * 10.0**e for e in decades for m in mantissas if m > 1 or (e - decades[0]) % every == 0]
        return [v for v in marks if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]


def _axis(values: Sequence[float], start: float, end: float, log: bool, zero: bool = False) -> _Axis:
    kept = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not kept:
        kept = [1.0, 10.0] if log else [0.0, 1.0]
    low, high = min(kept), max(kept)
    if log:
        low, high = (low / 1.3, high * 1.3) if low < high else (low / 3, high * 3)
    else:
        low = min(0.0, low) if zero else low
        margin = (high - low) * 0.04 or 1.0
        low, high = (low if zero and low == 0 else low - margin), high + margin
    return _Axis(low=low, high=high, start=start, end=end, log=log)


def number(value: float) -> str:
    """A short figure for a tick: 0.25, 4,096, 1e-5."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.6g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _frame(x: _Axis, y: _Axis, x_label: str, y_label: str, height: float) -> list[str]:
    base, middle = height - _BOTTOM, (_LEFT + _WIDTH - _RIGHT) / 2
    out = []
    for t in y.ticks():
        at = y(t)
        out += [
            f'<line class="gridline" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>',
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(t)}</text>',
        ]
    for t in x.ticks():
        out.append(f'<text x="{x(t):.1f}" y="{base + 16:.0f}" text-anchor="middle">{number(t)}</text>')
    return [
        *out,
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>',
        f'<text x="{middle:.0f}" y="{height - 8:.0f}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="12" y="{base / 2:.0f}" text-anchor="middle" transform="rotate(-90 12 {base / 2:.0f})">'
        f"{escape(y_label)}</text>",
    ]


def _nothing(height: float) -> str:
    """The note in place of a chart without values."""
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    at = f'x="{middle:.0f}" y="{(height - _BOTTOM) / 2:.0f}"'
    return f'<text class="name" {at} text-anchor="middle">nothing to show</text>'


def _figure(parts: Sequence[str], names: Sequence[str], caption: str, height: float) -> str:
    keys = "".join(f'<span><i class="s{i % 8}"></i>{escape(n)}</span>' for i, n in enumerate(names))
    return (
        '<figure class="chart">'
        + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
        + (f'<div class="keys">{keys}</div>' if len(names) > 1 else "")
        + f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(caption)}">'
        + "".join(parts)
        + "</svg></figure>"
    )


def histogram(
    series: Series,
    edges: Sequence[float],
    *,
    x_label: str,
    y_label: str = "features",
    caption: str = "",
    stacked: bool = False,
    log_x: bool = False,
    log_y: bool = False,
    marks: Mapping[str, float] | None = None,
    height: float = 260,
) -> str:
    """Counts in the bins between ``edges``: overlaid outlines, or stacked bars (the parts of one whole).

    Args:
        series: {name: one count per bin}; len(edges) = bins + 1.
        marks: {name: x} vertical lines, a median for example.
    """
    for name, counts in series.items():
        if len(counts) != len(edges) - 1:
            raise ValueError(f"series: {name!r} has {len(counts)} counts; wanted {len(edges) - 1}, one per bin")
    base = height - _BOTTOM
    x = _Axis(low=edges[0], high=edges[-1], start=_LEFT, end=_WIDTH - _RIGHT, log=log_x)
    sums = [sum(column) for column in zip(*series.values(), strict=True)] if stacked else []
    tops = sums or [v for counts in series.values() for v in counts]
    y = _axis([*tops, *([0.5] if log_y else [0.0])], base, _TOP, log_y, zero=True)
    floor = y.low if log_y else 0.0
    parts = _frame(x, y, x_label, y_label, height)
    if not any(v > 0 for counts in series.values() for v in counts):
        parts.append(_nothing(height))
    held = [0.0] * (len(edges) - 1)
    for i, (name, counts) in enumerate(series.items()):
        if stacked:
            for b, count in enumerate(counts):
                low, high = max(held[b], floor), max(held[b] + count, floor)
                if count > 0:
                    tip = f"{name}: {count:,.6g} in {number(edges[b])} … {number(edges[b + 1])}"
                    parts.append(
                        f'<rect class="fill s{i % 8}" x="{x(edges[b]) + 0.4:.1f}" y="{y(high):.1f}" '
                        f'width="{max(0.5, x(edges[b + 1]) - x(edges[b]) - 0.8):.1f}" '
                        f'height="{max(0.0, y(low) - y(high)):.1f}"><title>{escape(tip)}</title></rect>'
                    )
                held[b] += count
        else:
            path = f"M{x(edges[0]):.1f},{y(floor):.1f}"
            for b, count in enumerate(counts):
                at = y(max(count, floor))
                path += f"L{x(edges[b]):.1f},{at:.1f}L{x(edges[b + 1]):.1f},{at:.1f}"
            path += f"L{x(edges[-1]):.1f},{y(floor):.1f}Z"
            parts.append(f'<path class="area s{i % 8}" d="{path}"><title>{escape(name)}</title></path>')
    for name, at in (marks or {}).items():
        if x.holds(at) and x.low <= at <= x.high:
            shown = number(float(f"{at:.3g}"))
            parts.append(
                f'<line class="mark" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{_TOP}" y2="{base}"/>'
                f'<text class="name" x="{x(at) + 4:.1f}" y="{_TOP + 10}">{escape(name)} {shown}</text>'
            )
    return _figure(parts, list(series), caption, height)


def bars(series: Series, labels: Sequence[str], *, caption: str = "", x_label: str = "", digits: int = 2) -> str:
    """Horizontal bars: one group per label, one bar per series; values ≥ 0 (a negative one has a figure, no bar)."""
    for name, values in series.items():
        if len(values) != len(labels):
            raise ValueError(f"series: {name!r} has {len(values)} values; wanted {len(labels)}, one per label")
    if not labels:
        return f'<p class="note">{escape(caption)}: nothing to show.</p>'
    thick = 15.0
    step = thick * len(series) + 9
    height = _TOP + step * len(labels) + 30
    left = min(240.0, 12 + 6.6 * max((len(n) for n in labels), default=0))
    x = _axis([v for vs in series.values() for v in vs], left, _WIDTH - 60, False, zero=True)
    parts = []
    for i, label in enumerate(labels):
        top = _TOP + i * step
        parts.append(
            f'<text class="name" x="{left - 8}" y="{top + step / 2:.0f}" text-anchor="end">{escape(label)}</text>'
        )
        for j, values in enumerate(series.values()):
            value, at = values[i], top + j * thick
            length = max(0.0, x(value) - x(0)) if math.isfinite(value) else 0.0
            shown = f"{value:,.{digits}f}" if math.isfinite(value) else "n/a"
            parts += [
                f'<rect class="fill s{j % 8}" x="{x(0):.1f}" y="{at:.1f}" width="{length:.1f}" '
                f'height="{thick - 2}" rx="1.5"/>',
                f'<text x="{x(0) + length + 5:.1f}" y="{at + 11:.1f}">{shown}</text>',
            ]
    if x_label:
        parts.append(f'<text x="{left}" y="{height - 6:.0f}">{escape(x_label)}</text>')
    return _figure(parts, list(series), caption, height)


def lines(
    curves: Curves,
    *,
    x_label: str,
    y_label: str,
    caption: str = "",
    log_x: bool = False,
    log_y: bool = False,
    dashed: Sequence[str] = (),
    zero: bool = False,
    height: float = 280,
) -> str:
    """Curves with their points: {name: (xs, ys)}; those named in ``dashed`` (a floor, a bound) without points."""
    parts, x, y = _plane(curves, x_label, y_label, log_x, log_y, zero, height)
    for i, (name, (xs, ys)) in enumerate(curves.items()):
        points = [(a, b) for a, b in zip(xs, ys, strict=True) if x.holds(a) and y.holds(b)]
        path = "".join(f"{'L' if n else 'M'}{x(a):.1f},{y(b):.1f}" for n, (a, b) in enumerate(points))
        extra = " dashed" if name in dashed else ""
        if path:
            parts.append(f'<path class="s{i % 8} stroke{extra}" style="fill:none" d="{path}"/>')
        if not extra:
            parts += [_point(i, x(a), y(b), 3, f"{name}: {number(a)}, {number(b)}") for a, b in points]
    return _figure(parts, list(curves), caption, height)


def scatter(
    points: Curves,
    *,
    x_label: str,
    y_label: str,
    caption: str = "",
    tips: Mapping[str, Sequence[str]] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    height: float = 340,
    radius: float = 2.2,
) -> str:
    """Dots: {name: (xs, ys)}; ``tips`` {name: one text per dot} is shown under the pointer."""
    parts, x, y = _plane(points, x_label, y_label, log_x, log_y, False, height)
    for i, (name, (xs, ys)) in enumerate(points.items()):
        texts = (tips or {}).get(name) or [""] * len(xs)
        parts += [
            _point(i, x(a), y(b), radius, tip)
            for a, b, tip in zip(xs, ys, texts, strict=True)
            if x.holds(a) and y.holds(b)
        ]
    return _figure(parts, list(points), caption, height)


def _plane(
    curves: Curves, x_label: str, y_label: str, log_x: bool, log_y: bool, zero: bool, height: float
) -> tuple[list[str], _Axis, _Axis]:
    x = _axis([v for xs, _ in curves.values() for v in xs], _LEFT, _WIDTH - _RIGHT, log_x)
    y = _axis([v for _, ys in curves.values() for v in ys], height - _BOTTOM, _TOP, log_y, zero)
    parts = _frame(x, y, x_label, y_label, height)
    if not any(x.holds(a) and y.holds(b) for xs, ys in curves.values() for a, b in zip(xs, ys, strict=True)):
        parts.append(_nothing(height))
    return parts, x, y


def _point(series: int, x: float, y: float, radius: float, tip: str) -> str:
    title = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<circle class="point s{series % 8}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{title}</circle>'
