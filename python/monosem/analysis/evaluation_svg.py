"""The evaluation as a picture: one SVG that follows the reader's light or dark scheme."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from monosem.analysis.metrics import Evaluation
from monosem.data import files
from monosem.svg import bar, picture


def write_picture(path: str | Path, evaluation: Evaluation) -> Path:
    """Write the picture (SVG) whole; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, draw(evaluation))
    return path


def draw(e: Evaluation) -> str:
    """The SVG: headline figures, the three losses, the density histogram, and CE loss recovered by source."""
    scores = sorted(e.by_source, key=lambda s: -_finite(s.ce_loss_recovered))
    rows = math.ceil(len(scores) / 2)
    height = 400 + (56 + 19 * rows if len(scores) > 1 else 0)
    parts = [*_headline(e), *_losses(e), *_density(e)]
    if len(scores) > 1:
        parts.append('<text class="head" x="30" y="412">CE loss recovered, by source</text>')
        for i, score in enumerate(scores):
            x, y = 30 + 440 * (i // rows), 436 + 19 * (i % rows)
            length = 200 * min(1.0, max(0.0, _finite(score.ce_loss_recovered)))
            parts += [
                f'<text x="{x}" y="{y}">{escape(score.source[:22])}</text>',
                bar(x + 150, y - 10, 200, 11, "pale"),
                bar(x + 150, y - 10, length, 11),
                f'<text x="{x + 358}" y="{y}">{_percent(score.ce_loss_recovered)}</text>',
            ]
    title = f"{e.kind} SAE, {e.d_sae:,} features on {e.hook_name} of {e.model}; {e.tokens:,} tokens"
    return picture(title, parts, height)


def _headline(e: Evaluation) -> list[str]:
    figures = (
        ("CE loss recovered", _percent(e.ce_loss_recovered)),
        ("L0, features per token", f"{e.l0:.1f}"),
        ("explained variance", _percent(e.explained_variance)),
        ("dead features", _percent(e.dead / e.d_sae)),
    )
    return [
        f'<text x="{30 + 215 * i}" y="66">{name}</text><text class="big" x="{30 + 215 * i}" y="94">{value}</text>'
        for i, (name, value) in enumerate(figures)
    ]


def _losses(e: Evaluation) -> list[str]:
    out = ['<text class="head" x="30" y="140">Loss, nats per token</text>']
    if math.isnan(e.ce_clean):
        return [*out, '<text x="30" y="172">no next token was predicted</text>']
    rows = (("untouched", e.ce_clean), ("with the SAE", e.ce_sae), ("with zeros", e.ce_zero))
    largest = max(_finite(v) for _, v in rows) or 1.0
    for i, (name, value) in enumerate(rows):
        y = 172 + 46 * i
        out += [
            f'<text x="30" y="{y}">{name}</text><text class="end" x="380" y="{y}">{value:.4f}</text>',
            bar(30, y + 6, 350 * _finite(value) / largest, 14, "bar" if i == 1 else "pale"),
        ]
    return [
        *out,
        f'<text x="30" y="318">(zeros - SAE) / (zeros - untouched) = {_percent(e.ce_loss_recovered)} recovered</text>',
    ]


def _density(e: Evaluation) -> list[str]:
    left, right, top, base = 470.0, 870.0, 160.0, 330.0
    low, high = e.density_edges[0], e.density_edges[-1]
    highest = max(1, *e.density_counts)

    def at(edge: float) -> float:
        return left + (edge - low) / (high - low) * (right - left)

    out = [
        '<text class="head" x="470" y="140">Feature density, share of tokens</text>',
        f'<line x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>',
        f'<text class="end" x="{right}" y="{top - 4}">most in a bin: {highest:,}</text>',
    ]
    for a, b, count in zip(e.density_edges, e.density_edges[1:], e.density_counts, strict=False):
        tall = (base - top) * count / highest
        if count:
            out.append(bar(at(a) + 0.5, base - tall, at(b) - at(a) - 1, tall))
    out += [
        f'<text class="mid" x="{at(d):.1f}" y="{base + 17}">1e{d}</text>'
        for d in range(math.ceil(low), math.floor(high) + 1)
    ]
    note = f"{e.dead:,} dead, {e.ultralow:,} below {e.ultralow_bound:.1e}, {e.above_1_percent:,} above 1 %"
    return [*out, f'<text x="{left}" y="{base + 38}">{note}</text>']


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "n/a"
