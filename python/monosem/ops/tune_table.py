"""The table of block sizes, for measurements: the sizes that kernels use, temporary entries, and writing it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import monosem.kernels.launch as launch
from monosem.kernels.launch import alternatives, table

__all__ = ["alternatives", "override", "sizes_used", "table", "write"]


@contextmanager
def sizes_used() -> Iterator[dict[str, set[int]]]:
    """The kernels that look up block sizes inside this context, and for which sizes."""
    seen: dict[str, set[int]] = {}
    block = launch.block

    def record(kernel: str, size: int, gpu: str, arch: str) -> dict[str, int]:
        seen.setdefault(kernel, set()).add(size)
        return block(kernel, size, gpu, arch)

    launch.block = record
    try:
        yield seen
    finally:
        launch.block = block


@contextmanager
def override(table: dict[str, Any], kernel: str, size: int, choice: dict[str, int] | None) -> Iterator[None]:
    """An entry of the table for a while; None takes it out, so that the rule holds."""
    entries = table.setdefault(kernel, {})
    before = entries.pop(str(size), None)
    if choice is not None:
        entries[str(size)] = choice
    try:
        yield
    finally:
        entries.pop(str(size), None)
        if before is not None:
            entries[str(size)] = before


def write(measured: dict[str, Any], name: str, about: dict[str, Any], folder: Path | None = None) -> str:
    """Put the entries into the GPU's table, in the folder that kernels read or in another; returns its path."""
    path = (folder or launch.TUNED) / f"{launch.slug(name)}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"kernels": {}}
    for kernel, sizes in measured["kernels"].items():
        stored["kernels"].setdefault(kernel, {}).update(sizes)
    stored = {"gpu": name, "made": time.strftime("%Y-%m-%d", time.gmtime()), **about, "kernels": stored["kernels"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)
    launch.table.cache_clear()
    return str(path)
