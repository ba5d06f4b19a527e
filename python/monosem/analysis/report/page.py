"""The page itself: a template, one style sheet, one script, and the content as JSON, all in one file."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

from monosem.analysis.metrics import Evaluation
from monosem.analysis.report.content import Study, cards, overview
from monosem.analysis.sources import SourceMoments
from monosem.analysis.unit_rows import side_of
from monosem.data import files
from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary

_HERE = Path(__file__).parent


def write_report(
    path: str | Path,
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    evaluation: Evaluation,
    chosen: Study,
    *,
    held_out: SourceMoments | None = None,
    curves: dict[str, list[Any]] | None = None,
    title: str | None = None,
    notes: tuple[str, ...] = (),
    skip_positions: int = 1,
) -> Path:
    """Write ``report.html``: opens from disk, loads nothing from anywhere.

    Args:
        evaluation: the headline figures (of held-out text).
        chosen: the features to show, from :func:`monosem.analysis.report.content.study`.
        held_out: sums over the held-out text (an observer of the evaluation); the page then gives, for the feature
            that was chosen for each label on the text of ``chosen``, its correlation on held-out text too.
        curves: from :func:`monosem.analysis.report.curves.read_curves`; without them, or
            with a single point, that section is left out.
        notes: sentences on how the run was made, shown at the end.
    """
    content = {
        "evaluation": evaluation.to_dict(),
        "curves": curves if curves and len(curves["step"]) > 1 else None,  # one point is no line
        "bos": model.token_str(model.bos_id),
        "sources": chosen.index.moments.sources,
        "labels": _labels(chosen, held_out),
        "groups": [{"title": g.title, "note": g.note, "count": len(g.features)} for g in chosen.groups],
        "cards": cards(sae, model, hook_name, chosen, skip_positions=skip_positions),
        "overview": overview(chosen),
        "held_out": held_out is not None,
        "silent": _silent(chosen, held_out),
    }
    title = title or f"{evaluation.d_sae:,} features of model {evaluation.model}{side_of(evaluation.kind)}"
    page = render(content, title, notes)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, page)
    return path


def _silent(chosen: Study, held_out: SourceMoments | None) -> dict[str, int]:
    """Features that never fire on all the text that was read, and how many tokens that is."""
    counts, tokens = chosen.index.counts.double(), chosen.index.tokens
    if held_out is not None:
        counts, tokens = counts + held_out.counts, tokens + int(held_out.tokens.sum())
    return {"features": int((counts == 0).sum()), "tokens": tokens}


def _labels(chosen: Study, held_out: SourceMoments | None) -> list[dict[str, Any]]:
    """The best feature of each label; how the same feature does on held-out text, and which is best there.

    The two may differ where the little text that is held out has one kind of a label only (DNA in lower case, say).
    """
    rows = []
    for best in chosen.index.moments.best(chosen.labels):
        checked = there = None
        if held_out is not None:
            names = {chosen.index.moments.sources[i] for i in chosen.labels[best.label]}
            members = [i for i, name in enumerate(held_out.sources) if name in names]
            if held_out.tokens[members].sum():
                checked = held_out.describe(best.label, members, best.feature).to_dict()
                there = next((b.to_dict() for b in held_out.best({best.label: members})), None)
        rows.append(best.to_dict() | {"held_out": checked, "best_held_out": there})
    return rows


def render(content: dict[str, Any], title: str, notes: tuple[str, ...] = ()) -> str:
    """The HTML of some content. All text passes through autoescaping or :func:`embed`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["percent"] = lambda v, digits=1: "n/a" if v is None else f"{v:.{digits}%}"
    environment.filters["number"] = lambda v, digits=2: "n/a" if v is None else f"{v:,.{digits}f}"
    return environment.get_template("template.html").render(
        title=title,
        notes=notes,
        today=date.today().isoformat(),
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        script="".join((_HERE / name).read_text(encoding="utf-8") for name in ("draw.js", "page.js")),
        data=embed(content),
        **content,
    )


def embed(content: Any) -> str:
    """JSON that may stand inside a <script> element whatever strings it holds (no <, >, & and no line separators)."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
