"""The proxies as a section of the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from monosem.analysis.evidence import chart, lines_of_text
from monosem.analysis.evidence.proxies.profile import class_names
from monosem.analysis.evidence.section import Finding, Section

COMMAND = "monosem proxies RUN"


def section(result: Mapping[str, Any]) -> Section:
    """The section of :func:`monosem.analysis.evidence.proxies.measure`'s result, as a plain dict."""
    proxies = result["proxies"]
    findings = []
    for p in proxies:
        if p["paper"] is None:
            continue
        f, n = p["feature"], p["neuron"]
        beside = "" if n is None else f"; best neuron {n['correlation']:.2f}"
        findings.append(
            Finding(
                f"A feature responds to {p['name']}: Pearson with its proxy",
                f"{p['paper']:.2f}",
                f"{f['correlation']:.2f} (feature {f['index']}{beside})",
                f"Activation against the proxy's log-likelihood ratio{' (its sign)' if p['name'] == 'DNA' else ''}, "
                f"{result['tokens']:,} tokens; {COMMAND}",
            )
        )
    arabic = next((p for p in proxies if p["name"] == "Arabic"), None)
    if arabic:
        levels = [x for x in arabic["feature"]["profile"]["levels"] if x["specificity"] is not None]
        findings.append(
            Finding(
                "The Arabic feature is specific: base rate → where active, barely → strongly",
                "0.13 % → 81 %, 25 % → 98 %",
                f"{arabic['base_rate']:.1%} → {arabic['feature']['specificity']:.0%}, "
                f"{levels[0]['specificity']:.0%} → {levels[-1]['specificity']:.0%}",
                f"Share of tokens with the proxy above 0, in the lowest and highest of 11 levels; {COMMAND}",
            )
        )
    beside = [p for p in proxies if p["neuron"] and p["paper"] is not None]
    if beside:
        findings.append(
            Finding(
                "Features are more specific than the best neurons",
                "shown for single features",
                "; ".join(
                    f"{p['name']} {p['feature']['specificity']:.0%} against {p['neuron']['specificity']:.0%}"
                    for p in beside
                ),
                f"Share of the active tokens with the proxy above 0, best feature against best neuron; {COMMAND}",
            )
        )
    names = [p["name"] for p in proxies]
    bars = {"best feature": [p["feature"]["correlation"] for p in proxies]}
    if all(p["neuron"] for p in proxies):
        bars["best neuron"] = [p["neuron"]["correlation"] for p in proxies]
    if any(p["paper"] is not None for p in proxies):
        bars["the paper's feature"] = [float("nan") if p["paper"] is None else p["paper"] for p in proxies]
    body = [
        chart.bars(bars, names, caption="Pearson correlation of activation and proxy, over all tokens"),
        _table(proxies),
        *(_proxy(p) for p in proxies),
    ]
    if result["absent"]:
        body.append(f'<p class="fine">Not in this text: {escape(", ".join(result["absent"]))}.</p>')
    lede = (
        "A proxy says without any network how likely a token is part of a kind of text: log P(s | kind) / P(s), the "
        "largest over all strings s of tokens that end with it. Script proxies read Unicode blocks, the others "
        "character frequencies. A feature that means one thing is active where its proxy is high (specific), the more "
        "so the stronger it fires, and is active wherever the proxy is (sensitive). The proxies are imperfect: "
        "base64's, for one, also likes identifiers and hexadecimal digits."
    )
    return Section("proxies", "Features follow computational proxies", lede, tuple(findings), "\n".join(body))


def _table(proxies: list[Mapping[str, Any]]) -> str:
    rows = []
    for p in proxies:
        for what in ("feature", "neuron"):
            unit = p[what]
            if unit is None:
                continue
            figures = "".join(
                f'<td class="n">{v}</td>'
                for v in (
                    f"{unit['correlation']:.3f}", f"{unit['specificity']:.1%}", f"{unit['mass']:.1%}",
                    f"{unit['sensitivity']:.1%}", f"{unit['density']:.2%}",
                )
            )  # fmt: skip
            first = f"<td>{escape(p['name'])}</td>" if what == "feature" else "<td></td>"
            base = f'<td class="n">{p["base_rate"]:.2%}</td>' if what == "feature" else "<td></td>"
            rows.append(f"<tr>{first}{base}<td>{what} {unit['index']}</td>{figures}</tr>")
    heads = "".join(
        f"<th{kind}>{name}</th>"
        for name, kind in (
            ("Proxy", ""), ("tokens", ' class="n"'), ("best", ""), ("Pearson", ' class="n"'),
            ("specific", ' class="n"'), ("by activation", ' class="n"'), ("sensitive", ' class="n"'),
            ("active on", ' class="n"'),
        )
    )  # fmt: skip
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        '<p class="fine">tokens: share of all tokens with the proxy above 0; specific: the share of such tokens where '
        "the feature is active, by activation: of its summed activation; sensitive: share of the proxy's tokens on "
        "which it is active.</p>"
    )


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
    others = ", ".join(f"{c['index']} ({c['correlation']:.2f})" for c in p["companions"])
    return (
        f"<h3>{escape(p['name'])}</h3><p class=\"note\">{escape(p['how'])}. "
        f"Features next in correlation: {escape(others) or 'none'}.</p>"
        f'<div class="side">{figures}</div>'
        + chart.lines(
            curves, x_label="activation, as a share of the maximum", y_label="share with the proxy above 0",
            caption=f"{p['name']}: how specific, by level of activation", zero=True, height=220,
        )
        + _examples(p["feature"])
    )  # fmt: skip


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
                {names[i]: profile[key][i] for i in used}, profile["edges"], x_label="activation", y_label=y_label,
                caption=f"{what.capitalize()} {unit['index']}, r = {unit['correlation']:.2f}: {text}", stacked=True,
                height=220,
            )
        )  # fmt: skip
    return "".join(out)


def _examples(unit: Mapping[str, Any]) -> str:
    parts = []
    for level, examples in reversed(list(zip(unit["profile"]["levels"], unit["examples"], strict=True))):
        if examples:
            share = f"{level['specificity']:.0%} of {level['tokens']:,} tokens by the proxy"
            parts.append(
                f'<p class="fine interval">{level["low"]:.2f} to {level["high"]:.2f}: {share}</p>'
                + lines_of_text.lines(examples, unit["maximum"])
            )
    return f"<details><summary>Random examples of each level of activation</summary>{''.join(parts)}</details>"
