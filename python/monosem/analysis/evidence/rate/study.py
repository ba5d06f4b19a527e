"""The page on which somebody rates features, neurons and a control without knowing which is which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monosem.analysis.evidence.rate.steps import STEPS
from monosem.analysis.index import Example
from monosem.analysis.index.protocol import FeatureIndex
from monosem.analysis.inputs import Subject
from monosem.analysis.logits import logit_weights, used_vocabulary
from monosem.analysis.report.page import embed
from monosem.analysis.scan import Rows
from monosem.analysis.windows import Window, windows_of
from monosem.data import files, sealed

INTERVALS = 11
FORMAT = 1
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Candidate:
    """Something to be rated: what it is (``kind``, ``feature``) and what the annotator sees of it (``shown``)."""

    kind: str
    feature: int
    shown: dict[str, Any]


def candidates(
    subject: Subject,
    index: FeatureIndex,
    rows: Rows,
    features: Sequence[int],
    kind: str,
    *,
    per_interval: int = 5,
    logits: int = 10,
    skip_positions: int = 1,
    batch: int = 32,
    progress: bool = False,
) -> list[Candidate]:
    """What the page shows of some features: examples of the 11 intervals, and the tokens they raise most.

    Activations are given as shares of the feature's own maximum, so that their size does not tell neurons apart.

    Args:
        subject: dictionary, model and hook.
        index: an open feature index of ``rows`` (``interval``, ``maximum``).
        kind: "features", "neurons", "shuffled": goes into the key only.
        per_interval: most examples of an interval.
        logits: most raised tokens shown.
    """
    used = used_vocabulary(np.asarray(rows.tokens), subject.model.d_vocab)
    weights = logit_weights(
        subject.sae,
        subject.model,
        subject.hook_name,
        used,
        count=logits,
        features=torch.tensor(list(features), dtype=torch.int64, device="cpu"),
    )
    out = []
    with tqdm(total=len(features), unit=kind.rstrip("s"), desc=f"examples of {kind}", disable=not progress) as bar:
        for start in range(0, len(features), batch):
            part = [(f, _spectrum(index, f, per_interval)) for f in features[start : start + batch]]
            examples = [(f, e) for f, intervals in part for es in intervals for e in es]
            shown = iter(windows_of(subject, index, examples, characters=(44, 26), skip_positions=skip_positions))
            for at, (f, intervals) in enumerate(part, start):
                maximum = float(index.maximum[f])
                lines = [[_line(next(shown), maximum) for _ in es] for es in intervals]
                largest = max(float(weights.top_values[at, 0]), 1e-9)
                ids, values = weights.top_ids[at].tolist(), weights.top_values[at].tolist()
                raised = [
                    [subject.model.token_str(t), round(max(0.0, v) / largest, 3)]
                    for t, v in zip(ids, values, strict=True)
                ]
                out.append(Candidate(kind, f, {"intervals": lines, "positive": raised}))
                bar.update()
    return out


def _spectrum(index: FeatureIndex, feature: int, per_interval: int) -> list[list[Example]]:
    """At most ``per_interval`` examples of every interval, the strongest interval first; a place occurs once."""
    return [
        sorted(index.interval(feature, i)[:per_interval], key=lambda e: (-e.value, e.row, e.position))
        for i in reversed(range(INTERVALS))
    ]


def _line(window: Window, maximum: float) -> dict[str, Any]:
    focus = next(i for i, p in enumerate(window.pieces) if p.focus)
    pieces = [[p.text, round(p.value / maximum, 2)] for p in window.pieces]
    return {"pieces": pieces, "focus": focus, "rtl": window.right_to_left}


def write_study(
    folder: str | Path,
    items: Sequence[Candidate],
    seed: int = 0,
    sources: Sequence[str] | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write ``rate.html`` and, beside it, ``rate.key.json``; returns both paths.

    The page holds the items in an order drawn with ``seed`` and numbers them; which is which stands in the key only,
    with ``sources``, the names of the text's sources, and ``made_from``, of what dictionaries and text it was made.

    Raises:
        ValueError: nothing to rate.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    if not items:
        raise ValueError("items: got none; wanted at least one feature to rate")
    order = np.random.default_rng(seed).permutation(len(items))
    mixed = [items[i] for i in order]
    shown = [c.shown for c in mixed]
    study = hashlib.sha256(json.dumps(shown, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
    content = {
        "study": study,
        "format": FORMAT,
        "items": shown,
        "intervals": INTERVALS,
        "steps": [s.to_dict() for s in STEPS],
    }
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    report = _HERE.parent.parent / "report"
    page = environment.get_template("rate.html").render(
        count=len(items),
        style="".join(path.read_text(encoding="utf-8") for path in (report / "style.css", _HERE / "rate.css")),
        script="".join(path.read_text(encoding="utf-8") for path in (report / "draw.js", _HERE / "rate.js")),
        data=embed(content),
    )
    key = {
        "study": study,
        "format": FORMAT,
        **({} if sources is None else {"sources": list(sources)}),
        **({} if made_from is None else {"made_from": dict(made_from)}),
        "items": {str(n): {"kind": c.kind, "feature": c.feature} for n, c in enumerate(mixed, 1)},
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sealed.write(folder / "rate.key.json", key)
    files.write_text(folder / "rate.html", page)
    return folder / "rate.html", folder / "rate.key.json"
