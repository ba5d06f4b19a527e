"""Growth as log-log plots (SVG): time and peak memory, with the floor and the state drawn in. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

_COLOURS = ("#0b6bcb", "#c2410c", "#4d7c0f", "#7e22ce")
_NAMES = {"f": "features F", "n": "tokens per step N", "k": "active features per token K"}


def growth(result: dict[str, Any], path: Path) -> Path:
    """Two panels, time and memory, against the axis that grows."""
    points = result["points"]
    xs = [point["value"] for point in points]
    names = list(dict.fromkeys(row["name"] for point in points for row in point["rows"]))
    settings = {"svg.fonttype": "none", "svg.hashsalt": "monosem", "font.size": 10, "font.family": "sans-serif"}
    with plt.rc_context(settings):
        figure, (time, memory) = plt.subplots(1, 2, figsize=(9.2, 3.7), layout="constrained")
        for name, colour in zip(names, _COLOURS, strict=False):
            for axes, field, scale in ((time, "ms", 1.0), (memory, "peak_bytes", 1e-9)):
                points_of_row = [(x, _of(point, name, field)) for x, point in zip(xs, points, strict=True)]
                points_of_row = [(x, y * scale) for x, y in points_of_row if y]
                axes.plot(
                    *zip(*points_of_row, strict=True), "o-", ms=4, color=colour, label=name
                ) if points_of_row else None
        dashes = {"ls": "--", "color": "#555", "lw": 1.2}
        time.plot(xs, [point["floor"]["ms"] for point in points], label="floor of this machine", **dashes)
        memory.plot(xs, [point["state_bytes"] / 1e9 for point in points], label="weights and Adam's state", **dashes)
        for axes, what in ((time, "ms per step"), (memory, "peak memory, GB")):
            axes.set(xscale="log", yscale="log", xlabel=_NAMES[result["axis"]], ylabel=what)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(LogLocator(base=2, numticks=len(xs) + 2))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
            axes.tick_params(axis="x", rotation=35)
            axes.grid(True, which="major", color="#ddd", lw=0.6)
            axes.legend(frameon=False, fontsize=9)
        w, m = result["workload"], result["machine"]
        fixed = {"N": w["n"], "D": w["d"], "F": w["f"], "K": w["k"]}
        del fixed[result["axis"].upper()]
        shape = " ".join(f"{name}={value:,}" for name, value in fixed.items())
        figure.suptitle(f"One training step ({w['kind']}, {shape}) on {m['cpu']}, {m['threads']} threads", fontsize=11)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return path


def _of(point: dict[str, Any], name: str, field: str) -> float | None:
    return next((row.get(field) for row in point["rows"] if row["name"] == name), None)
