"""Model diffing as a picture: how the decoder norms of a crosscoder's features divide between its sources."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from monosem.data import files
from monosem.nn import Crosscoder
from monosem.svg import bar, picture

BINS = 50
_LEFT, _RIGHT, _ROW = 60.0, 870.0, 190.0


def write_picture(path: str | Path, sae: Crosscoder, names: Sequence[str], alive: Tensor | None = None) -> Path:
    """Write the picture (SVG) whole; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, draw(sae, names, alive))
    return path


def draw(sae: Crosscoder, names: Sequence[str], alive: Tensor | None = None) -> str:
    """The SVG: for each source but the first, a histogram of its relative decoder norm beside that of the first.

    At 0 are the features that only the first source has, at 1 those that only the other has, near 0.5 the shared ones.

    Args:
        names: of the sources.
        alive: bool [d_sae], the features that are counted; None: all.

    Raises:
        ValueError: not a name per source, or a single source.
    """
    sources = sae.cfg.n_sources
    if len(names) != sources or sources < 2:
        raise ValueError(f"names: got {list(names)}; wanted one per source, n_sources={sources}, and at least two")
    norms = sae.norms().detach() if alive is None else sae.norms().detach()[alive]
    owners = sae.owners() if alive is None else sae.owners()[alive]
    parts: list[str] = []
    for i, name in enumerate(names[1:], 1):
        share = norms[:, i] / (norms[:, 0] + norms[:, i]).clamp(min=torch.finfo(norms.dtype).tiny)
        present = (norms[:, 0] + norms[:, i]) > 0
        counts = torch.histc(share[present].float().cpu(), BINS, 0, 1).long().tolist()
        parts += _histogram(counts, names[0], name, 60 + _ROW * (i - 1))
    own = ", ".join(f"{int((owners == i).sum()):,} exclusive to {name}" for i, name in enumerate(names))
    bottom = 60 + _ROW * (sources - 1)
    parts.append(f'<text x="30" y="{bottom + 8:.0f}">{int((owners < 0).sum()):,} features shared, {escape(own)}</text>')
    return picture(f"Relative decoder norms of {len(norms):,} features", parts, bottom + 28)


def _histogram(counts: Sequence[int], first: str, other: str, top: float) -> list[str]:
    base, highest, width = top + 130, max(1, *counts), (_RIGHT - _LEFT) / len(counts)
    out = [
        f'<text class="head" x="30" y="{top + 4:.0f}">‖W({escape(other)})‖ / (‖W({escape(first)})‖ + '
        f"‖W({escape(other)})‖)</text>",
        f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{base:.0f}" y2="{base:.0f}"/>',
        f'<text class="end" x="{_RIGHT}" y="{top + 4:.0f}">most in a bin: {highest:,}</text>',
    ]
    for i, count in enumerate(counts):
        if count:
            tall = 110 * count / highest
            out.append(bar(_LEFT + width * i + 0.5, base - tall, width - 1, tall))
    # Names may be long: those at the ends stay inside.
    marks = (
        (_LEFT, "", f"0: {first} only"),
        ((_LEFT + _RIGHT) / 2, "mid", "0.5: shared"),
        (_RIGHT, "end", f"1: {other} only"),
    )
    out += [
        f'<text class="{anchor}" x="{x:.0f}" y="{base + 17:.0f}">{escape(words)}</text>' for x, anchor, words in marks
    ]
    return out
