"""Fronts as two panels (SVG): CE loss recovered and explained variance against L0, a line per kind; by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

_COLOURS = ("#0b6bcb", "#c2410c", "#4d7c0f", "#7e22ce", "#be185d", "#0f766e", "#a16207", "#475569")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_PANELS = {"ce_loss_recovered": "CE loss recovered", "explained_variance": "explained variance"}
_SHOWN = (4, 256)  # L0; a point outside is drawn only where a line has none inside
_TICKS = (4, 8, 16, 32, 64, 128, 256)
_GAP = 0.052  # between two names, as a share of the height


def plot(result: dict[str, Any], path: Path) -> Path:
    """Draw the fronts of a result of ``fronts.py``; each line has its name at its right end."""
    names = list(dict.fromkeys(row["name"] for row in result["runs"]))
    settings = {"svg.fonttype": "none", "svg.hashsalt": "monosem", "font.size": 10, "font.family": "sans-serif"}
    with plt.rc_context(settings):
        figure, panels = plt.subplots(1, 2, figsize=(11.5, 4.6), layout="constrained")
        for axes, (field, title) in zip(panels, _PANELS.items(), strict=True):
            ends = []
            for number, name in enumerate(names):
                points = sorted((row["l0"], row[field]) for row in result["runs"] if row["name"] == name)
                points = [p for p in points if _SHOWN[0] <= p[0] <= _SHOWN[1]] or points
                colour = _COLOURS[number % len(_COLOURS)]
                mark = _MARKS[(number + number // len(_COLOURS)) % len(_MARKS)]  # no pair comes twice
                axes.plot(*zip(*points, strict=True), marker=mark, ms=4, lw=1.4, color=colour)
                ends.append((points[-1], name, colour))
            axes.set(xscale="log", xlabel="L0 (mean number of active features)", title=title)
            axes.set_xticks(_TICKS)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
            axes.grid(True, color="#ddd", lw=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            _name(axes, ends)
        t = result["training"]
        figure.suptitle(
            f"{t['d_sae']:,} features on {result['hook_name']} of model {result['model']}, "
            f"{t['activations'] / 1e6:.3g} M activations each",
            fontsize=11,
        )
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return path


def _name(axes, ends: list[tuple[tuple[float, float], str, str]]) -> None:
    """The name of each line right of the panel, at the height of its end, apart from the others."""
    low, high = axes.get_ylim()
    heights: list[float] = []
    ordered = sorted(ends, key=lambda end: end[0][1])
    for (_, y), _, _ in ordered:
        at = (y - low) / (high - low)
        heights.append(max(at, heights[-1] + _GAP) if heights else at)
    down = max(0.0, heights[-1] - 1)  # all stay beside the panel
    for index in range(len(heights) - 1, -1, -1):
        upper = heights[index + 1] - _GAP if index + 1 < len(heights) else 1.0
        heights[index] = min(heights[index], upper) if down else heights[index]
    for ((x, y), name, colour), height in zip(ordered, heights, strict=True):
        axes.annotate(
            name,
            (x, y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "alpha": 0.5},
        )
