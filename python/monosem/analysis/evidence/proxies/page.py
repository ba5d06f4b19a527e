"""The proxies as a section of the evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from monosem.analysis.evidence import chart, token_html
from monosem.analysis.evidence.numbers import feature
from monosem.analysis.evidence.proxies.profile import class_names
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.tables import table

COMMAND = "monosem proxies RUN"


def section(result: Mapping[str, Any]) -> Section:
    """The section of :func:`monosem.analysis.evidence.proxies.measure`'s result, as a plain dict."""
    proxies = result["proxies"]
    followed = [p for p in proxies if p["feature"]]
    findings = [*_responses(followed, result), *_arabic(followed), *_specific(followed)]
    bars = {"best feature": _pearson(p["feature"] for p in proxies)}
    if any(p["neuron"] for p in proxies):
        bars["best neuron"] = _pearson(p["neuron"] for p in proxies)
    if any(p["paper"] is not None for p in proxies):
        bars["the paper's feature"] = [math.nan if p["paper"] is None else p["paper"] for p in proxies]
    body = [_table(proxies), *(_proxy(p) for p in followed)]
    if proxies:
        caption = "Pearson correlation of activation and proxy, over all tokens"
        body.insert(0, chart.bars(bars, [p["name"] for p in proxies], caption=caption))
    if unfollowed := [p["name"] for p in proxies if not p["feature"]]:
        body.append(f'<p class="note">No feature follows {escape(", ".join(unfollowed))} on this text.</p>')
    if result["absent"]:
        body.append(f'<p class="fine">Not in this text: {escape(", ".join(result["absent"]))}.</p>')
    intro = (
        "A proxy measures without any network how likely a token is part of a kind of text: log P(s | kind) / P(s), "
        "the largest over all strings s of tokens that end with it. Script proxies read Unicode blocks, the others "
        "character frequencies. A feature that means one thing is active where its proxy is high (specific), the more "
        "so the stronger it fires, and is active wherever the proxy is (sensitive). The proxies are imperfect: those "
        "of character frequencies, for one, also like words and identifiers that have the same characters."
    )
    return Section(
        anchor="proxies",
        title="Features follow computational proxies",
        intro=intro,
        findings=tuple(findings),
        body="\n".join(body),
        paper=papers_setting(result),
    )


def _pearson(units: Iterable[Mapping[str, Any] | None]) -> list[float]:
    return [unit["correlation"] if unit else math.nan for unit in units]


def _with_interval(unit: Mapping[str, Any]) -> str:
    """The correlation, with its interval over contexts where it has one."""
    span = unit.get("correlation_interval")  # older results have none
    low, high = (round(x, 2) + 0.0 for x in span or (0, 0))  # without a sign where it rounds to 0
    return f"{unit['correlation']:.2f}" + ("" if span is None else f" [{low:.2f}, {high:.2f}]")


def _responses(proxies: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> list[Finding]:
    """One line for each of the paper's kinds of text that this text has; without any, one for each proxy."""
    known = [p for p in proxies if p["paper"] is not None] or proxies
    return [
        Finding(
            f"A feature responds to {p['name']}: Pearson with its proxy",
            None if p["paper"] is None else f"{p['paper']:.2f}",
            f"{_with_interval(p['feature'])} (feature #{p['feature']['index']}"
            + (f"; best neuron {_with_interval(p['neuron'])})" if p["neuron"] else ")"),
            f"Activation against the proxy's log-likelihood ratio{' (its sign)' if p['name'] == 'DNA' else ''}, "
            f"{result['tokens']:,} tokens; in brackets 95 % intervals over contexts; {COMMAND}",
        )
        for p in known
    ]


def _arabic(proxies: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """How specific the Arabic feature is, where the text has the paper's Arabic."""
    arabic = next((p for p in proxies if p["name"] == "Arabic" and p["paper"] is not None), None)
    levels = [x for x in arabic["feature"]["profile"]["levels"] if x["specificity"] is not None] if arabic else []
    if arabic is None or not levels:
        return []
    return [
        Finding(
            "The Arabic feature is specific: base rate → where active, barely → strongly",
            "0.13 % → 81 %, 25 % → 98 %",
            f"{arabic['base_rate']:.1%} → {arabic['feature']['specificity']:.0%}, "
            f"{levels[0]['specificity']:.0%} → {levels[-1]['specificity']:.0%}",
            f"Share of tokens with the proxy above 0, in the lowest and highest of 11 levels; {COMMAND}",
        )
    ]


def _specific(proxies: Sequence[Mapping[str, Any]]) -> list[Finding]:
    known = any(p["paper"] is not None for p in proxies)
    beside = [p for p in proxies if p["neuron"] and (p["paper"] is not None or not known)]
    if not beside:
        return []
    ours = (f"{p['name']} {p['feature']['specificity']:.0%} against {p['neuron']['specificity']:.0%}" for p in beside)
    return [
        Finding(
            "Features are more specific than the best neurons",
            "shown for single features",
            "; ".join(ours),
            f"Share of the active tokens with the proxy above 0, best feature against best neuron; {COMMAND}",
        )
    ]


def _table(proxies: list[Mapping[str, Any]]) -> str:
    rows = []
    for p in proxies:
        for what in ("feature", "neuron"):
            unit = p[what]
            if unit is None:
                continue
            opens = what == "feature" or p["feature"] is None  # the proxy is named in its first row
            first = [escape(p["name"]), f"{p['base_rate']:.2%}"] if opens else ["", ""]
            figures = [
                _with_interval(unit),
                f"{unit['specificity']:.1%}",
                f"{unit['mass']:.1%}",
                f"{unit['sensitivity']:.1%}",
                f"{unit['density']:.2%}",
            ]
            rows.append([*first, _named(what, unit), *figures])
    heads = ("Proxy", "tokens", "best", "Pearson", "specific", "by activation", "sensitive", "active on")
    notes = (
        '<p class="fine">tokens: share of all tokens with the proxy above 0; specific: the share of such tokens where '
        "the feature is active, by activation: of its summed activation; sensitive: share of the proxy's tokens on "
        "which it is active.</p>"
    )
    empty = "No proxy is followed by any feature or neuron on this text: none fires, or none fires with one of them."
    return table(heads, rows, empty, figures=(1, 3, 4, 5, 6, 7)) + (notes if rows else "")


def _named(what: str, unit: Mapping[str, Any]) -> str:
    """``feature #12`` or ``neuron 12`` as HTML."""
    return f"feature {feature(unit['index'])}" if what == "feature" else f"neuron {unit['index']}"


def _proxy(p: Mapping[str, Any]) -> str:
    units = [("feature", p["feature"]), *([("neuron", p["neuron"])] if p["neuron"] else [])]
    curves = {}
    for what, unit in units:
        levels = [x for x in unit["profile"]["levels"] if x["specificity"] is not None]
        curves[f"{what} {unit['index']}"] = (
            [(x["low"] + x["high"]) / 2 / unit["maximum"] for x in levels],
            [x["specificity"] for x in levels],
        )
    used = [i for i in range(len(class_names())) if any(sum(u["profile"]["counts"][i]) for _, u in units)]
    figures = "".join(f"<div>{_histograms(what, unit, used)}</div>" for what, unit in units)
    others = ", ".join(f"{feature(c['index'])} ({c['correlation']:.2f})" for c in p["companions"])
    return (
        f'<h3>{escape(p["name"])}</h3><p class="note">{escape(p["how"])}. '
        f"Best: {_named('feature', p['feature'])}; next in correlation: {others or 'none'}.</p>"
        f'<div class="side">{figures}</div>'
        + chart.lines(
            curves,
            x_label="activation, as a share of the maximum",
            y_label="share with the proxy above 0",
            caption=f"{p['name']}: how specific, by level of activation",
            zero=True,
            height=220,
        )
        + _examples(p["feature"])
    )


def _histograms(what: str, unit: Mapping[str, Any], used: list[int]) -> str:
    """Both histograms; ``used``: the classes that either of the two compared has, so that colours agree."""
    profile, names = unit["profile"], class_names()
    out = []
    for key, y_label, text in (
        ("counts", "tokens", "all its activations"),
        ("mass", "tokens × activation", "weighted by activation (expected value)"),
    ):
        out.append(
            chart.histogram(
                {names[i]: profile[key][i] for i in used},
                profile["edges"],
                x_label="activation",
                y_label=y_label,
                caption=f"{what.capitalize()} {unit['index']}, r = {unit['correlation']:.2f}: {text}",
                stacked=True,
                height=220,
            )
        )
    return "".join(out)


def _examples(unit: Mapping[str, Any]) -> str:
    parts = []
    for level, examples in reversed(list(zip(unit["profile"]["levels"], unit["examples"], strict=True))):
        if examples:
            share = f"{level['specificity']:.0%} of {level['tokens']:,} tokens by the proxy"
            parts.append(
                f'<p class="fine interval">{level["low"]:.2f} to {level["high"]:.2f}: {share}</p>'
                + token_html.lines(examples, unit["maximum"])
            )
    return f"<details><summary>Random examples of each level of activation</summary>{''.join(parts)}</details>"
