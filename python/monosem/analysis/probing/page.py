"""The section on k-sparse probing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from monosem.analysis.evidence import chart, numbers
from monosem.analysis.evidence.section import Finding, Section
from monosem.analysis.evidence.tables import table
from monosem.analysis.probing.result import FEATURES, NEURONS, counted

_UNITS = 3  # features that are named in a row


def section(result: Mapping[str, Any]) -> Section:
    """The section of :func:`measure.probe`'s result, as a plain dict."""
    tasks, ks, means = result["tasks"], result["ks"], result["means"]
    last = "the last token" if result["pool"] == "last" else f"the {result['pool']} over the tokens"
    intro = (
        "A feature that stands for something should tell texts that have it from texts that do not. For each label, "
        "the features whose mean differs most between its texts and the rest are chosen on training texts; a logistic "
        "regression on these few is scored on test texts. Beside it stand the same of neurons, a probe on all "
        f"neurons, and the more frequent class. Of each text, {last} is taken."
    )
    test = f"{sum(sum(t['test']) for t in tasks):,} test texts in {len(tasks)} task{'s' if len(tasks) > 1 else ''}"
    findings = tuple(
        Finding(
            f"A label told from the rest by {counted(k, FEATURES)}",
            None,
            f"accuracy {_mean(means, FEATURES, k, 'accuracy'):.1%}, AUC {_mean(means, FEATURES, k, 'auc'):.3f}; "
            f"by {counted(k, NEURONS)} {_mean(means, NEURONS, k, 'accuracy'):.1%}, "
            f"{_mean(means, NEURONS, k, 'auc'):.3f}",
            f"Mean over tasks; {test}; monosem probe RUN",
        )
        for k in ks
    )
    body = ['<div class="side">', _curves(result, "accuracy"), _curves(result, "auc"), "</div>"]
    body += ["<h3>Tasks</h3>", _note(result), _table(tasks, ks)]
    return Section(
        anchor="probing",
        title="Telling labelled texts apart by a few features",
        intro=intro,
        findings=findings,
        body="\n".join(body),
    )


def _mean(means: Sequence[Mapping[str, Any]], on: str, k: int | None, figure: str) -> float:
    return next(m[figure] for m in means if (m["on"], m["k"]) == (on, k))


def _curves(result: Mapping[str, Any], figure: str) -> str:
    ks, means, tasks = result["ks"], result["means"], result["tasks"]
    ends = [ks[0], ks[-1]]
    curves = {on: (ks, [_mean(means, on, k, figure) for k in ks]) for on in (FEATURES, NEURONS)}
    flat = {f"all {m['on']}": m[figure] for m in means if m["k"] is None}
    if figure == "accuracy":
        flat["majority class"] = sum(t["majority"] for t in tasks) / len(tasks)
    return chart.lines(
        {**curves, **{name: (ends, [value, value]) for name, value in flat.items()}},
        x_label="k, the number of features or neurons of a probe",
        y_label={"accuracy": "accuracy", "auc": "AUC"}[figure],
        log_x=len(ks) > 1,
        dashed=tuple(flat),
        caption=f"{'Accuracy' if figure == 'accuracy' else 'AUC'} on test texts, mean over tasks",
    )


def _note(result: Mapping[str, Any]) -> str:
    words = [
        f"{result['texts']:,} texts of at most {result['length']} tokens",
        "as many of the label as of the rest" if result["balanced"] else "all texts of the rest",
        "features by the size of the difference, − where it is lower on the texts of the label",
        f"intervals: 95 % (Wilson), of k = {result['ks'][0]}",
    ]
    return f'<p class="note">Accuracy on test texts. {escape("; ".join(words))}.</p>'


def _table(tasks: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> str:
    every = sorted({p["on"] for p in tasks[0]["probes"] if p["k"] is None}, reverse=True)  # neurons first
    heads = ["Label", "features", "test texts", "majority", *(counted(k, FEATURES) for k in ks), "interval", "AUC"]
    heads += [*(counted(k, NEURONS) for k in ks), *(f"all {on}" for on in every)]
    rows = []
    for task in tasks:
        at = {(p["on"], p["k"]): p for p in task["probes"]}
        first, widest = at[FEATURES, ks[0]], at[FEATURES, ks[-1]]
        named = zip(widest["units"][:_UNITS], widest["differences"], strict=False)
        rows.append(
            [
                escape(_name(task)),
                " ".join(("−" if d < 0 else "") + numbers.feature(unit) for unit, d in named),
                f"{sum(task['test']):,}",
                f"{task['majority']:.1%}",
                *(f"{at[FEATURES, k]['accuracy']:.1%}" for k in ks),
                f"{first['low']:.0%} to {first['high']:.0%}",
                f"{first['auc']:.3f}",
                *(f"{at[NEURONS, k]['accuracy']:.1%}" for k in ks),
                *(f"{at[on, None]['accuracy']:.1%}" for on in every),
            ]
        )
    return table(heads, rows, "No task was probed.", figures=range(2, len(heads)))


def _name(task: Mapping[str, Any]) -> str:
    what = task["label"] if task["against"] is None else f"{task['label']} / {task['against']}"
    return f"{task['dataset']}: {what}" if task["dataset"] else what
