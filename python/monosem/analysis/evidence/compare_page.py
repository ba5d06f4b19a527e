"""The section on universality."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from monosem.analysis.evidence import chart, token_html
from monosem.analysis.evidence.numbers import feature
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.tables import figure, table

PAPER = {"features": 0.72, "neurons": 0.46}
PAIRS = {  # the paper's pairs: correlation of activations, of logit weights
    "Arabic": ("0.91", "0.23"),
    "Hebrew": ("0.92", "0.3"),
    "DNA": ("0.92", "not given"),
    "base64": ("0.85", "not given"),
}


def section(result: Mapping[str, Any]) -> Section:
    """The section of the report, from :class:`Universality` as a dict."""
    comparisons = {c["name"]: c for c in result["comparisons"]}
    how = (
        f"monosem compare RUN_A RUN_B: {result['tokens']:,} tokens; of each feature that fires on at least "
        f"{result['least']} of them the largest Pearson correlation with a feature of the other side, median over them"
    )
    findings = [
        Finding(
            f"{name.capitalize()} of one model have a counterpart in the other"
            + (" (here: in another dictionary of the same model)" if result["same_model"] else ""),
            f"median {PAPER[name]}",
            f"median {figure(comparisons[name]['quantiles'][2])}",
            how,
        )
        for name in ("features", "neurons")
        if name in comparisons
    ]
    findings += [
        Finding(
            f"The {p['label']} feature is in both",
            "activations {}, logits {}".format(*PAIRS[p["label"]]) if p["label"] in PAIRS else None,
            f"activations {figure(p['r'])}, logits {figure(p['logits'])}",
            f"#{p['a']} of A and #{p['b']} of B"
            + ("" if p["b"] == p["b_of_label"] else f" (B's own best {p['label']} feature is #{p['b_of_label']})"),
        )
        for p in result["labels"]
    ]
    two = "two dictionaries of one model" if result["same_model"] else "two models"
    intro = (
        f"Features of {two}, matched by their activations: for each feature the one on the other side whose "
        "activations on the same text correlate best with its own. Random directions, with as many of "
        "them active per token, show how well a match by chance correlates."
    )
    return Section(
        anchor="universality",
        title=title(result),
        intro=intro,
        findings=tuple(findings),
        body=_body(result),
        script="",
        paper=papers_setting(result),
        dictionaries=("A", "B"),
    )


def title(result: Mapping[str, Any]) -> str:
    """What was compared: two models, or two dictionaries of one."""
    return f"The same features in another {'dictionary' if result['same_model'] else 'model'}"


def _body(result: Mapping[str, Any]) -> str:
    comparisons = result["comparisons"]
    shown = {c["name"]: [100 * n / max(1, c["compared"]) for n in c["histogram"]] for c in comparisons}
    bins = len(comparisons[0]["histogram"])
    medians = ", ".join(f"{c['name']} {figure(c['quantiles'][2])}" for c in comparisons)
    distribution = chart.histogram(
        shown,
        [i / bins for i in range(bins + 1)],
        x_label="correlation with the best match",
        y_label="% of them",
        caption=f"How similar is the most similar feature of the other side? Medians: {medians}.",
    )
    p = result["points"]
    tips = [
        f"#{i} of A – #{j} of B, fires on {n:,} tokens"
        for i, j, n in zip(p["feature"], p["match"], p["tokens"], strict=True)
    ]
    numbers = lambda values: [math.nan if v is None else v for v in values]
    name = f"pairs ({len(tips):,} of {comparisons[0]['compared']:,})"
    logits = chart.scatter(
        {name: (p["r"], numbers(p["logits"]))},
        x_label="correlation of activations",
        y_label="of logit weights",
        caption="Do matched pairs also have similar logit weights? Correlation over the vocabulary, median "
        f"{figure(result['logits_median'])}.",
        tips={name: tips},
    )
    attribution = chart.scatter(
        {name: (p["r"], numbers(p["attribution"]))},
        x_label="correlation of activations",
        y_label="of attributions",
        caption="Attributions (activation × logit weight of the token that came next), median "
        f"{figure(result['attribution_median'])}.",
        tips={name: tips},
    )
    density = chart.scatter(
        {name: (p["tokens"], p["r"])},
        x_label="tokens on which it fires",
        y_label="correlation",
        log_x=True,
        caption="The best match against how often a feature fires.",
        tips={name: tips},
    )
    rows = [
        [
            f"{escape(c['name'])}: {escape(c['a']['name'])} → {escape(c['b']['name'])}",
            f"{c['compared']:,} of {c['a']['features']:,}",
            *map(figure, c["quantiles"]),
            figure(c["backward"][2]),
        ]
        for c in comparisons
    ]
    heads = ("Best match", "compared", "10 %", "25 %", "median", "75 %", "90 %", "median, the other way")
    matches = table(heads, rows, "Nothing was compared.", figures=range(1, 8))
    return f'<div class="side">{distribution}{logits}{attribution}{density}</div>{matches}{_examples(result)}'


def _examples(result: Mapping[str, Any]) -> str:
    words = lambda tokens: f'<span class="words">{" ".join(map(token_html.bdi, tokens))}</span>'
    rows = [
        [
            figure(e["r"]),
            figure(e["logits"]),
            feature(e["a"], "A"),
            words(e["raised_a"]),
            feature(e["b"], "B"),
            words(e["raised_b"]),
        ]
        for e in result["examples"]
    ]
    return (
        "<h3>Pairs, from the best match to the worst</h3>"
        '<p class="note">At evenly spaced ranks, with the tokens that each side raises most.</p>'
    ) + table(("activations", "logits", "A", "raises", "B", "raises"), rows, "There are no pairs.", figures=(0, 1))
