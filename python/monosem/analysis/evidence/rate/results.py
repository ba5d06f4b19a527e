"""The section of the report on human analysis."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from monosem.analysis.evidence import chart
from monosem.analysis.evidence.numbers import feature
from monosem.analysis.evidence.rate.steps import MOST_POINTS, STEPS
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.tables import table

_TITLES = {
    "confidence": "Confidence, 3",
    "high": "Strong examples, 5",
    "logits": "Next tokens, 3",
    "separation": "Separation, 1",
    "specificity": "Specificity, 3",
}


def section(result: dict[str, Any]) -> Section:
    """Claim 2: a person finds features far more interpretable than neurons."""
    kinds = result["kinds"]
    ours = ", ".join(
        f"{k} {s['points']['median']:g} [{s['points']['low']:g}, {s['points']['high']:g}]" for k, s in kinds.items()
    )
    counts = ", ".join(f"{s['n']} {k}" for k, s in kinds.items())
    people = "one annotator" if len(result["annotators"]) == 1 else f"{len(result['annotators'])} annotators"
    finding = Finding(
        "Features are more interpretable to a person than neurons",
        "median neuron 0, median feature interval 12, of 14",
        f"median points: {ours}",
        f"{counts}, mixed and unlabelled, rated by {people} on the six-step rubric, "
        "one rating per item over all 11 intervals. monosem rate RUN, then monosem rate --score answers.json",
    )
    intro = (
        "Features, neurons and, where given, features of a model with shuffled weights, mixed and without labels: the "
        "annotator sees examples of 11 intervals of activation and the positive logits, forms a hypothesis and "
        f"rates it, {MOST_POINTS} points at most. Only afterwards the key says which item is which."
    )
    return Section(
        anchor="rubric",
        title="Human analysis",
        intro=intro,
        findings=(finding,),
        body=_table(result) + _histogram(result) + _items(result),
        paper=papers_setting(result),
        dictionaries=("features", "neurons", "shuffled"),
    )


def _table(result: dict[str, Any]) -> str:
    rows = []
    for kind, s in result["kinds"].items():
        cells = []
        for step in STEPS:
            m = s["steps"][step.name]
            cells.append(f"{m['median']:g}" if m else "n/a")
        fits = f"{s['fits']['median']:.0%} ({s['fits']['n']})" if s["fits"] else "n/a"
        p = s["points"]
        points = f"<b>{p['median']:g}</b> <span class='fine'>[{p['low']:g}, {p['high']:g}]</span>"
        figures = [str(s["n"]), points, f"{s['above_8']:.0%}", *cells, fits]
        rows.append([escape(kind), *figures])
    heads = [
        "Medians [bootstrap 95 %]",
        "n",
        "Points of 14",
        "Above 8",
        *(_TITLES[s.name] for s in STEPS),
        "Intervals that fit",
    ]
    notes = []
    if result["open"]:
        notes.append(f"Not rated and left out: {result['open']}.")
    if result["agreement"] is not None:
        notes.append(f"Annotators agree with Spearman ρ = {result['agreement']:.2f}.")
    drawn = table(heads, rows, "Nothing was rated.", figures=range(1, len(heads)))
    return drawn + (f'<p class="note">{" ".join(notes)}</p>' if notes else "")


def _histogram(result: dict[str, Any]) -> str:
    edges = np.arange(MOST_POINTS + 2) - 0.5
    series = {}
    for kind, s in result["kinds"].items():
        points = [i["points"] for i in result["items"] if i["kind"] == kind]
        counts, _ = np.histogram(points, edges)
        series[f"{kind} ({s['n']})"] = (counts / len(points)).tolist()
    return chart.histogram(
        series, edges.tolist(), x_label="points", y_label="share", caption="Points of the rubric, by kind"
    )


def _items(result: dict[str, Any]) -> str:
    rows = []
    for i in sorted(result["items"], key=lambda i: (-i["points"], i["number"])):
        hypotheses = " / ".join(i["hypotheses"]) or "(none)"
        name = f"{escape(i['kind'].removesuffix('s'))} {feature(i['feature'], i['kind'])}"
        rows.append(
            [
                f"<b>{i['points']:g}</b>",
                name,
                f'<span dir="auto" style="white-space:normal">{escape(hypotheses)}</span>',
            ]
        )
    drawn = table(("Points", "Item", "Hypothesis"), rows, "No item was rated.", figures=(0,))
    return f"<details><summary>All {len(rows)} items with their hypotheses</summary>{drawn}</details>"
