"""The automata as a section of the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from monosem.analysis.evidence import token_html
from monosem.analysis.evidence.automata.draw import draw
from monosem.analysis.evidence.numbers import feature
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.tables import table

COMMAND = "monosem automata RUN"
_KINDS = (
    (
        "loops",
        "Features that lead to themselves",
        "The tokens that the feature raises are tokens on which it fires: once started, text of this kind continues.",
    ),
    (
        "cycles",
        "Cycles",
        "Different states in turn: each raises the tokens that fire the next, and they do not fire together.",
    ),
    ("chains", "Chains", "From each feature the strongest transitions, as long as they do not return."),
)

_STYLE = (
    "<style>.loops, .cycles { display: grid; gap: 0 1rem; align-items: start; "
    "grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); } "
    ".cycles { grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); } "
    ".automaton { max-height: 320px; }</style>"
)


def section(result: Mapping[str, Any]) -> Section:
    """The section of :func:`monosem.analysis.evidence.automata.measure`'s result, as a plain dict."""
    findings = [
        Finding(
            "Features form finite-state automata: loops and cycles of features that raise each other's tokens",
            "examples: base64 to itself, snake case (2 states), HTML (4 states)",
            f"{result['all_loops']:,} features lead to themselves, {result['all_cycles']:,} cycles of 2 to 4 states"
            + _strongest(result),
            f"{result['tokens']:,} tokens; a transition: the next feature fires at least twice as often as by chance "
            f"on a token that the first one raised, at least 20 times; {COMMAND}",
        )
    ]
    if result["raise_lift"] is not None:
        findings.append(
            Finding(
                "Logit weights predict the next token: how much more often a raised token follows when it fires",
                "not given",
                f"{result['raise_lift']:.1f} times (median); more than once for {result['raise_lift_above_1']:.0%}",
                f"Raised: logit weights above 3 deviations of the mode around 0; {COMMAND}",
            )
        )
    if result["alignment"] is not None:
        findings.append(
            Finding(
                "Transitions counted on text agree with logit weights",
                "not given",
                f"{result['alignment']:+.2f} nats on the next feature's tokens ({result['aligned']:.0%} above 0); next "
                f"feature drawn at random: {result['alignment_shuffled']:+.2f} ({result['aligned_shuffled']:.0%})",
                "Logit weight of the first feature, averaged over the activation of the second, less its mean over the "
                f"text; the strongest transitions, median; {COMMAND}",
            )
        )
    body = [_STYLE]
    for key, title, note in _KINDS:
        if not result[key]:
            body.append(f'<h3>{title}</h3><p class="note">None was found on this text.</p>')
            continue
        body.append(f'<h3>{title}</h3><p class="note">{note}</p>')
        drawn = [_automaton(p, result["nodes"], f"{key}-{n}") for n, p in enumerate(result[key])]
        body += drawn if key == "chains" else [f'<div class="{key}">', *drawn, "</div>"]
    if result["lost"]:
        body.append(
            f'<p class="fine">Rare pairs were dropped to save memory: counts may be up to {result["lost"]:,.0f} too '
            "small.</p>"
        )
    intro = (
        "A feature raises some tokens; those tokens fire other features, which raise tokens in turn. An arrow is drawn "
        "where, after a step on which the first feature fires and one of the tokens that it raises comes next, the "
        "second feature fires on that token: the percentage says how often, the words which tokens. Features are "
        "labelled by the tokens that carry most of their activation, and the kind of text they fire on most."
    )
    return Section(
        anchor="automata",
        title="Finite-state automata",
        intro=intro,
        findings=tuple(findings),
        body="\n".join(body),
        paper=papers_setting(result),
    )


def _strongest(result: Mapping[str, Any]) -> str:
    """The strongest cycle in words."""
    if not result["cycles"]:
        return ""
    nodes = [result["nodes"][str(f)] for f in result["cycles"][0]["features"]]
    states = [f"{' '.join(node['tokens'][:3])}" for node in nodes]
    return f"; the strongest ({nodes[0]['source']}): {' → '.join([*states, states[0]])}"


def _automaton(path: Mapping[str, Any], nodes: Mapping[str, Any], name: str) -> str:
    lines = "".join(
        f'<p class="fine interval">{feature(f)}, its strongest example</p>'
        + token_html.line(nodes[str(f)]["example"], nodes[str(f)]["example"]["value"])
        for f in path["features"]
    )
    steps = [
        [
            f"{feature(e['from'])} → {feature(e['to'])}",
            f"<bdi>{escape(' '.join(e['tokens']))}</bdi>",
            f"{e['raise_share']:.0%}",
            f"{e['probability']:.0%}",
            f"{e['base']:.2%}",
            f"{e['support']:,}",
        ]
        for e in path["edges"]
    ]
    heads = ("step", "by tokens", "raised token comes", "then it fires", "fires on all tokens", "steps")
    return (
        f'<div class="card"><p class="fine">strength {path["strength"]:.2f}</p>{draw(path, nodes, name)}'
        "<details><summary>figures and text</summary>"
        f"{table(heads, steps, 'No step was counted.', figures=(2, 3, 4, 5))}{lines}</details></div>"
    )
