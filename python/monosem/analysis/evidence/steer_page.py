"""The section on steering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from monosem.analysis.evidence import chart, token_html
from monosem.analysis.evidence.numbers import feature
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.steer import HIT, PAPERS, STEERED

_ERROR = {"keep": "kept", "drop": "dropped"}
NO_LABEL = "No feature follows a label of this text, so there is none to steer by."


def section(result: Mapping[str, Any]) -> Section:
    """The section of the report, from the result as a dict."""
    findings = []
    for c in result["cases"]:
        for run in c["runs"]:
            n = len(run["samples"])
            findings.append(
                Finding(
                    f"The {c['label']} feature, pinned, writes {c['label']} after {run['prompt']!r}",
                    "it does" if c["label"] in STEERED and run["multiple"] == PAPERS else None,
                    f"{run['hits']} of {n} samples at {run['multiple']:g}× the maximum; {run['control_hits']} of {n} "
                    "without steering",
                    f"feature #{c['feature']}, {result['length']} tokens "
                    f"at temperature {result['temperature']:g}; {result['judged']}",
                )
            )
        effect = c["effect"]
        findings.append(
            Finding(
                f"Ablating it hurts {c['label']} and little else",
                "shown by example" if c["label"] in STEERED else None,
                f"{effect['label']:+.3f} nats per token on {c['label']}{_interval(effect['label_interval'])}, "
                f"{effect['other']:+.4f} on other text{_interval(effect['other_interval'], 4)}",
                f"f set to 0 on every token, error term {_ERROR[result['error']]}; {effect['tokens_label']:,} and "
                f"{effect['tokens_other']:,} tokens; in brackets 95 % intervals over contexts",
            )
        )
    body = "".join(_case(c, result) for c in result["cases"])
    body = body or f'<p class="note">{escape(NO_LABEL)}</p>'
    names = " and ".join(c["label"] for c in result["cases"]) or "a label"
    intro = (
        f"A correlation shows when a feature fires, steering shows its effect. The feature for {names} is set to the "
        "largest activation seen, as in the paper, and to the multiple of it that works best, while the model writes "
        "on from a prompt; and to zero "
        f"while the model reads text. The rest of the activation is unchanged; the part that the dictionary does not "
        f"explain, the error term, is {_ERROR[result['error']]}."
    )
    return Section(
        anchor="steering",
        title="Features cause text",
        intro=intro,
        findings=tuple(findings),
        body=body,
        paper=papers_setting(result),
    )


def _interval(interval: Sequence[float] | None, digits: int = 3) -> str:
    return "" if interval is None else f" [{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]"


def _case(c: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    runs = "".join(_samples(run, c, result) for run in c["runs"])
    logits = ", ".join(
        f'<bdi style="white-space:nowrap"><code>{escape(token_html.token(t))}</code></bdi> {v:+.2f}'
        for t, v in c["top_logits"]
    )
    sweep = chart.lines(
        {
            f"judged {c['label']}": (c["sweep"]["multiples"], c["sweep"]["hits"]),
            "mean share of tokens": (c["sweep"]["multiples"], c["sweep"]["shares"]),
        },
        x_label="pinned to … × the maximum seen",
        y_label="share",
        log_x=True,
        zero=True,
        caption=f"How strongly it must be pinned: {c['sweep']['trials']} samples each after "
        f"{c['runs'][-1]['prompt']!r}, other seeds than below.",
    )
    effect = c["effect"]
    losses = chart.bars(
        {"nats lost a token": [max(0.0, -effect[k]) for k in ("label", "active", "other")]},
        [f"on {c['label']}", "where it fires", "on other text"],
        digits=3,
        caption="Ablated: how much less likely the next token becomes (mean log-likelihood lost).",
    )
    return (
        f"<h3>{escape(c['label'])}: feature {feature(c['feature'])}</h3>"
        f'<p class="note">Correlation with the label {c["correlation"]:.2f}; {c["precision"]:.0%} of the tokens it '
        f"fires on are {escape(c['label'])}, and it fires on {c['recall']:.0%} of those. Largest activation seen: "
        f"{c['maximum']:.2f}. Positive logits: {logits}.</p>"
        f'<div class="side">{sweep}{losses}</div>'
        f'<p class="note">The largest effect of ablation. Background: activation; underlined: the token becomes less '
        f"likely when the feature is ablated (thicker: more). Point at a token for its figures.</p>"
        f"{_text(c['passage'])}"
        f"{runs}"
    )


def _samples(run: Mapping[str, Any], c: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    n = len(run["samples"])
    head = (
        f'<p class="note">After <code>{escape(run["prompt"])}</code>: left the model by itself, right with the '
        "feature at "
        f"{run['multiple'] * c['maximum']:.1f} ({run['multiple']:g}× its maximum), the same seeds. The figure is the "
        "share of tokens judged "
        f"to be {escape(c['label'])}; {run['hits']} of {n} samples have at least half, {run['control_hits']} of {n} "
        "without steering.</p>"
    )
    rows = [
        f'<div class="side"><div class="sample">{_shown(s["unsteered"], s["unsteered_share"])}</div>'
        f'<div class="sample">{_shown(s["steered"], s["steered_share"])}</div></div>'
        for s in run["samples"]
    ]
    rest = f"<details><summary>{len(rows) - 5} more</summary>{''.join(rows[5:])}</details>" if rows[5:] else ""
    return head + "".join(rows[:5]) + rest


def _shown(text: str, share: float) -> str:
    style = ' style="color:var(--good)"' if share >= HIT else ' class="fine"'
    return f"<bdi>{escape(text)}</bdi> <b{style}>{share:.0%}</b>"


def _text(passage: Mapping[str, Any]) -> str:
    pieces = passage["pieces"]
    top = max((p["value"] for p in pieces), default=0) or 1.0
    spans = []
    for p in pieces:
        lost = min(1.0, max(0.0, -p["change"] / 2))
        line = f"border-bottom:{1 + 3 * lost:.1f}px solid var(--s3)" if lost > 0.02 else ""
        tip = f"activation {p['value']:.2f}; log-likelihood {p['change']:+.2f} when ablated"
        spans.append(token_html.span(p["text"], p["value"] / top, tip=tip, style=line, breaks=True))
    direction = ' dir="rtl"' if passage["right_to_left"] else ""
    return f'<div class="sample"{direction}>{"".join(spans)}</div>'
