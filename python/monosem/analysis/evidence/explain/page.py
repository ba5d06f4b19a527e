"""Two sections of the report: automated interpretability of activations, and of logit weights."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from monosem.analysis.evidence import chart, token_html
from monosem.analysis.evidence.explain.measure import how_read
from monosem.analysis.evidence.numbers import feature
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.tables import table

_COMMAND = "monosem explain RUN"
_NONE = "No feature fires often enough on this text to be explained from some examples and tested on others."
_LISTED = 40  # features that are listed with their examples


def _score(result: dict[str, Any], kind: str, task: str) -> dict[str, float] | None:
    return result["kinds"].get(kind, {}).get("scores", {}).get(task)


def _say(result: dict[str, Any], task: str, field: str = "median") -> str:
    """The figure of every kind in one line."""
    parts = []
    for kind in result["kinds"]:
        s = _score(result, kind, task)
        parts.append(f"{kind} {s[field]:.2f}" if s else f"{kind} n/a")
    return ", ".join(parts)


def _shares(result: dict[str, Any], name: str) -> str:
    known = {k: s[name] for k, s in result["kinds"].items() if s[name] is not None}
    return ", ".join(f"{kind} {v:.1%}" for kind, v in known.items())


def _who(result: dict[str, Any]) -> str:
    if result["interpreter"] == "local":
        return "the local interpreter (rules learned from the same examples; no language model)"
    how = how_read(result.get("answers", {}))
    return f"{result['interpreter']}, asked for every explanation and prediction" + (f"; {how}" if how else "")


def section(result: dict[str, Any]) -> Section:
    """Claim 3: explanations predict the activations of features better than those of neurons."""
    counts = ", ".join(f"{s['n']} {k}" for k, s in result["kinds"].items())
    how = f"{counts}; {_who(result)}. {_COMMAND}"
    shown = {"brief": "12 active examples"}.get(result.get("answers", {}).get("asked", ""), "49 examples")
    findings = (
        Finding(
            "Explanations predict the activations of features better than those of neurons",
            "features above neurons (histograms only, no medians; Claude 2)",
            f"median Spearman ρ: {_say(result, 'simulation')}",
            f"explained from {shown}, ρ of predicted and true activations on 60 × 9 other tokens; {how}",
        ),
        Finding(
            "… also with random examples weighted as often as they occur",
            "features above neurons (histograms only)",
            f"median weighted ρ: {_say(result, 'weighted')}",
            f"importance weights of the paper: 1 for random examples, density × interval share for chosen; {how}",
        ),
        Finding(
            "Most activations on random text are zero, for features more than for neurons",
            "88 % of features' against 54 % of neurons' (medians 91 %, 58 %)",
            f"mean {_shares(result, 'zero_share_mean')}; median {_shares(result, 'zero_share_median')}",
            f"tokens of 35 random snippets of nine for each feature; {_COMMAND}",
        ),
    )
    charts = _histograms(
        result,
        {
            "simulation": ("Spearman ρ of simulated activations", np.linspace(-0.5, 1, 31)),
            "weighted": ("the same, weighted by importance", np.linspace(-0.5, 1, 31)),
            "detection": ("detection: balanced accuracy", np.linspace(0.2, 1, 17)),
            "fuzzing": ("fuzzing: balanced accuracy", np.linspace(0.2, 1, 17)),
        },
    )
    body = [
        *(f'<p class="note">{escape(kind)}: {_NONE}</p>' for kind in result["subjects"] if kind not in result["kinds"]),
        _table(result, ("simulation", "weighted", "detection", "fuzzing")),
        f'<div class="side">{charts}</div>',
        _single(result),
        "<h3>Explanations</h3>",
        '<p class="note">Each token on the warm background of its true level (0 to 9, 9 the maximum); underlined '
        "where the explanation predicts activity, thicker for a higher level. Of each feature the three strongest "
        "test examples and three on which the prediction errs most.</p>",
        _list(result),
    ]
    intro = (
        f"An interpreter sees examples of a feature with its activations and writes an explanation. From that "
        f"text alone it then predicts the activations on other examples. Interpreter here: {_who(result)}. "
        "Detection asks only in which snippets the feature is active, fuzzing whether the marked tokens are the active "
        "ones; chance is 0.5 in both."
    )
    return Section(
        anchor="explain",
        title="Automated interpretability: activations",
        intro=intro,
        findings=findings if result["kinds"] else (),
        body=_STYLE + "\n".join(filter(None, body)) if result["kinds"] else f'<p class="note">{_NONE}</p>',
        paper=papers_setting(result),
        dictionaries=("features", "neurons", "shuffled"),
    )


def logit_section(result: dict[str, Any]) -> Section:
    """Claim 4: explanations predict what features make likely to come next."""
    counts = ", ".join(f"{s['n']} {k}" for k, s in result["kinds"].items())
    finding = Finding(
        "From the explanation one can tell which next tokens a feature makes likely; from a neuron's one cannot",
        "median accuracy: features 0.74, neurons 0.53, randomised model 0.50; mean 74 % against 58 %",
        f"median {_say(result, 'logits')}; mean {_say(result, 'logits', 'mean')}",
        f"100 tokens: 50 random ones and the 11th to 60th by logit weight (the first 10 are in the explanation's "
        f"prompt), chance 0.50; {counts}; {_who(result)}. {_COMMAND}",
    )
    charts = _histograms(result, {"logits": ("accuracy on 100 tokens, half of them raised", np.linspace(0, 1, 26))})
    intro = (
        "The same explanations, applied to the output side: which of 100 tokens does the feature raise as the next "
        "token? Fifty of them are those it raises most after the ten that the explanation was made from, fifty "
        f"are drawn at random. Interpreter here: {_who(result)}."
    )
    return Section(
        anchor="explain-logits",
        title="Automated interpretability: logit weights",
        intro=intro,
        findings=(finding,) if result["kinds"] else (),
        body=_table(result, ("logits",)) + charts,
        paper=papers_setting(result),
    )


_NAMES = {
    "simulation": "Simulation, ρ",
    "weighted": "Weighted by importance, ρ",
    "detection": "Detection",
    "fuzzing": "Fuzzing",
    "logits": "Logit task",
}


def _table(result: dict[str, Any], tasks: Sequence[str]) -> str:
    rows = []
    for kind, summary in result["kinds"].items():
        cells = []
        for task in tasks:
            s = summary["scores"][task]
            text = f"{s['median']:.2f} <span class='fine'>[{s['low']:.2f}, {s['high']:.2f}]</span>" if s else "n/a"
            missing = summary["n"] - (s["n"] if s else 0)
            text += f" <span class='fine'>{missing} n/a</span>" if missing and s else ""
            if area := summary.get("auc", {}).get(task):
                text += (
                    f"<br><span class='fine'>AUC {area['median']:.2f} [{area['low']:.2f}, {area['high']:.2f}]</span>"
                )
            cells.append(text)
        rows.append([escape(kind), str(summary["n"]), *cells, str(sum(summary["failed"].values()))])
    heads = ["Median [bootstrap 95 %]", "n", *(_NAMES[t] for t in tasks), "Unusable answers"]
    return table(heads, rows, _NONE, figures=range(1, len(heads)))


def _histograms(result: dict[str, Any], tasks: dict[str, tuple[str, np.ndarray]]) -> str:
    out = []
    for task, (label, edges) in tasks.items():
        series, marks = {}, {}
        for kind in result["kinds"]:
            values = [i["scores"][task] for i in result["items"] if i["kind"] == kind]
            kept = [v for v in values if v is not None]
            if not kept:
                continue
            counts, _ = np.histogram(np.clip(kept, edges[0], edges[-1]), edges)
            series[f"{kind} ({len(kept)})"] = (counts / len(kept)).tolist()
        if task not in ("simulation", "weighted"):
            marks["chance"] = 0.5
        if series:
            out.append(
                chart.histogram(
                    series, edges.tolist(), x_label=label, y_label="share", caption=_NAMES[task], marks=marks
                )
            )
    return "".join(out)


def _single(result: dict[str, Any]) -> str:
    """The paper's warning about the control, with the figures it turns on."""
    shares = _shares(result, "single_token_share")
    control = (
        "; in the paper the features of a model with shuffled weights score above those of the trained one here, "
        "because so many of them are single-token; the logit weights below tell the two apart"
        if papers_setting(result) and "shuffled" in result["kinds"]
        else ""
    )
    return (
        f'<p class="note">Single-token features, whose top examples all end in the same token: {escape(shares)}. '
        f"They are easy to predict and need not mean much{control}.</p>"
    )


_STYLE = """<style>
.told { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem 1rem; margin: .6rem 0; content-visibility: auto; contain-intrinsic-size: auto 300px; }
.told header { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; }
.told h4 { margin: 0; font: 600 1.05rem var(--serif); }
.told .meta { color: var(--soft); font-size: .82rem; }
.told .two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: .2rem 1.6rem; margin-top: .4rem; }
.told pre { font: .82rem/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; margin: .2rem 0; }
.told .snip { font: .86rem/1.7 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; padding: .2rem; border-top: 1px solid var(--grid); }
.told .snip .tok { border-bottom: calc(var(--p) * .36px) solid var(--s1); }
</style>"""  # noqa: E501


def _list(result: dict[str, Any]) -> str:
    kinds = list(result["kinds"])
    by_kind = {k: [i for i in result["items"] if i["kind"] == k] for k in kinds}
    per_kind = max(1, _LISTED // max(1, len(kinds)))
    out = []
    for kind in kinds:
        ranked = sorted(by_kind[kind], key=lambda i: -(i["scores"]["simulation"] or -9.0))
        chosen = _spaced(ranked, per_kind)
        note = f"{len(chosen)} of {len(ranked)}, from the best-predicted to the worst"
        out.append(f"<details{' open' if kind == kinds[0] else ''}><summary>{escape(kind)}: {note}</summary>")
        out += [_card(i) for i in chosen]
        out.append("</details>")
    return "".join(out)


def _spaced(ranked: Sequence[Any], count: int) -> list[Any]:
    if len(ranked) <= count:
        return list(ranked)
    return [ranked[round(i * (len(ranked) - 1) / max(1, count - 1))] for i in range(count)]


def _card(item: dict[str, Any]) -> str:
    areas = item.get("auc", {})
    scores = " · ".join(
        f"{name} {item['scores'][task]:.2f}" + (f" (AUC {areas[task]:.2f})" if task in areas else "")
        if item["scores"][task] is not None
        else f"{name} n/a"
        for task, name in (
            ("simulation", "ρ"),
            ("weighted", "weighted ρ"),
            ("detection", "detection"),
            ("fuzzing", "fuzzing"),
            ("logits", "logits"),
        )
    )
    text = item["explanation"] if item["explanation"] is not None else "(no usable explanation)"
    return (
        f'<article class="told"><header><h4>{escape(_one(item["kind"]))} {feature(item["feature"], item["kind"])}</h4>'
        f'<span class="meta">{scores} · fires on {item["density"]:.3%} of tokens</span></header>'
        f'<div class="two"><pre dir="auto">{escape(text)}</pre><div>'
        + "".join(map(_snippet, item["examples"]))
        + "</div></div></article>"
    )


def _one(kind: str) -> str:
    return {"features": "Feature", "neurons": "Neuron"}.get(kind, f"Feature ({kind})")


def _snippet(example: dict[str, Any]) -> str:
    spans = []
    for text, level, guess in example["pieces"]:
        tip = f"level {level}" + ("" if guess is None else f", predicted {guess:g}")
        predicted = f"--p:{guess if guess and guess >= 1 else 0:g}"
        spans.append(token_html.span(text, level / 9, tip=tip, style=predicted))
    direction = "rtl" if example["rtl"] else "ltr"
    return f'<div class="snip" dir="{direction}">{"".join(spans)}</div>'
