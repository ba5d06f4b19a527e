"""The section on dictionaries of growing width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from monosem.analysis.evidence import chart
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.tables import figure, table

PAPER = {4096: 0.79, 131072: 0.945}  # CE loss recovered (Loss recovered; A/1 and A/5)


def section(result: Mapping[str, Any]) -> Section:
    """The section of :func:`measure`'s result, as a plain dict."""
    runs: Sequence[Mapping[str, Any]] = result["runs"]
    command = "monosem widths RUN0 RUN1 …"
    widest = max(runs, key=lambda r: r["live"])
    findings = [
        Finding(
            f"Far more features than neurons ({result['d_in']:,} of them)",
            "tens of thousands, no end at 131,072",
            f"{widest['live']:,} live features outside the ultralow cluster, of {widest['d_sae']:,} "
            f"({widest['live'] / result['d_in']:.1f} per neuron)",
            f"{result['density_tokens']:,} tokens; {widest['separation']}; {command}",
        )
    ]
    for r in runs:
        if r["d_sae"] in PAPER:
            findings.append(
                Finding(
                    f"CE loss recovered with {r['d_sae']:,} features",
                    f"{PAPER[r['d_sae']]:.1%}",
                    f"{figure(r['ce_loss_recovered'], '.1%')} at L0 {r['l0']:.1f} ({r['name']})",
                    f"(zeros − dictionary) / (zeros − untouched), {result['tokens']:,} tokens; {command}",
                )
            )
        if r["d_sae"] == 4096:
            findings.append(
                Finding(
                    "Dead and ultralow-density features of 4,096",
                    "168 and 292",
                    f"{r['dead']} and {r['ultralow']} ({r['name']})",
                    f"Never active on {result['density_tokens']:,} tokens (there: 100 M); in the cluster; {command}",
                )
            )
    kinds = list(dict.fromkeys(r["kind"] for r in runs))

    def curve(key: str) -> dict[str, tuple[list[float], list[float]]]:
        return {
            k: (
                [r["d_sae"] for r in runs if r["kind"] == k],
                [math.nan if r[key] is None else r[key] for r in runs if r["kind"] == k],
            )
            for k in kinds
        }

    widths = [r["d_sae"] for r in runs]
    ends = [min(widths), max(widths)]
    body = [
        '<div class="side">',
        chart.lines(
            {**curve("live"), "as many as neurons": (ends, [result["d_in"]] * 2), "all of them": (ends, ends)},
            x_label="features in the dictionary",
            y_label="live features",
            log_x=True,
            log_y=True,
            dashed=("as many as neurons", "all of them"),
            caption="Live features outside the ultralow cluster",
        ),
        chart.lines(
            curve("ce_loss_recovered"),
            x_label="features in the dictionary",
            y_label="CE loss recovered",
            log_x=True,
            caption="What the dictionary keeps of the model",
        ),
        chart.lines(
            curve("l0"),
            x_label="features in the dictionary",
            y_label="features active on a token",
            log_x=True,
            zero=True,
            caption="L0",
        ),
        "</div>",
        _table(runs),
        '<h3>Density histograms</h3><p class="note">How often features fire, on a logarithmic scale. The '
        "ultralow cluster, whose features mean nothing, is marked where there is one; dead features are not shown.</p>",
        '<div class="side">',
        *(_histogram(r) for r in runs),
        "</div>",
    ]
    intro = (
        "Dictionaries of different widths explain the same neurons. If the number of features were about the number of "
        "neurons, wider dictionaries would fill with dead or meaningless features. Only features that fire outside "
        "the ultralow-density cluster count."
    )
    return Section(
        anchor="widths",
        title="Many more features than neurons",
        intro=intro,
        findings=tuple(findings),
        body="\n".join(body),
        paper=papers_setting(result),
    )


def _histogram(r: Mapping[str, Any]) -> str:
    edges = [10.0**e for e in r["edges"]]
    kept = [a - b for a, b in zip(r["counts"], r["low_counts"], strict=True)]
    marks = {"cut": r["cut"]} if r["cut"] else {}
    series = {"live": kept, **({"ultralow": r["low_counts"]} if r["ultralow"] else {})}
    return chart.histogram(
        series,
        edges,
        x_label="density: share of tokens",
        stacked=True,
        log_x=True,
        marks=marks,
        height=220,
        caption=f"{r['name']}: {r['d_sae']:,} features, {r['dead']:,} dead ({r['separation']})",
    )


def _table(runs: Sequence[Mapping[str, Any]]) -> str:
    heads = (
        "Dictionary",
        "kind",
        "features",
        "live",
        "ultralow",
        "dead",
        "denser than 1 %",
        "L0",
        "CE recovered",
        "explained variance",
    )
    rows = [
        [
            escape(r["name"]),
            escape(r["kind"]),
            f"{r['d_sae']:,}",
            f"{r['live']:,}",
            f"{r['ultralow']:,}",
            f"{r['dead']:,}",
            f"{r['above_1_percent']:,}",
            f"{r['l0']:.1f}",
            figure(r["ce_loss_recovered"], ".2%"),
            figure(r["explained_variance"], ".2%"),
        ]
        for r in runs
    ]
    return table(heads, rows, "No dictionary was compared.", figures=range(2, len(heads)))
