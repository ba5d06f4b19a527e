"""The training curves of a run, from the JSON lines that training writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

KEYS = ("loss", "mse", "l0", "dead")


def read_curves(path: str | Path, points: int = 400) -> dict[str, list[Any]]:
    """Read ``metrics.jsonl``: {"step", "tokens", "loss", "mse", "l0", "dead", ...: equal-length lists}.

    A key that a line lacks becomes None there; a key that no line has is left out, and so is a line that is not a
    JSON object (a run may have been stopped while it wrote one). At most ``points`` lines, evenly spaced, the last
    one always among them.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"metrics: no file {str(path)!r}; wanted the metrics.jsonl that training writes")
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    if len(rows) > points:
        rows = [rows[round(i * (len(rows) - 1) / (points - 1))] for i in range(points)]
    names = [k for k in ("step", "tokens", *KEYS, "tokens_per_second") if any(k in row for row in rows)]
    return {name: [_number(row.get(name)) for row in rows] for name in names}


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def find_curves(folder: str | Path) -> dict[str, list[Any]] | None:
    """The curves of the run that made a dictionary, if its metrics lie beside it."""
    path = Path(folder) / "metrics.jsonl"
    return read_curves(path) if path.is_file() else None
