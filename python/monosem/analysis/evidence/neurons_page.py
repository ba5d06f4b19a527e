"""The section on features that are not neurons."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from monosem.analysis.evidence import chart
from monosem.analysis.evidence.neurons import TOP
from monosem.analysis.evidence.numbers import feature
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.tables import table


def section(result: Mapping[str, Any]) -> Section:
    """The section of :func:`measure`'s result, as a plain dict."""
    r, command = result, "monosem neurons RUN"
    intro = (
        "If features were neurons under another name, each would have a neuron that fires with it. For every live "
        "feature: the neuron with the highest Pearson correlation over all tokens (the paper trusts it more than the "
        "largest decoder weight, as neurons differ in scale), how many neurons its decoder direction is spread over, "
        f"and how often its context stands among any neuron's {TOP} strongest examples."
    )
    if r["median"] is None:
        none = (
            f'<p class="note">None of the {r["d_sae"]:,} features fires on the {r["tokens"]:,} tokens of this text.</p>'
        )
        return Section(
            anchor="neurons",
            title="Features are not neurons",
            intro=intro,
            findings=(),
            body=none,
            paper=papers_setting(r),
        )
    how = f"{r['live']:,} live features, {r['tokens']:,} tokens; {command}"
    findings = [
        Finding(
            "Features are not neurons: Pearson with the most correlated neuron, all features",
            "not given",
            f"{r['median']:.2f} (median); {r['above']['0.5']:.0%} above 0.5, {r['above']['0.8']:.0%} above 0.8",
            how,
        ),
        *(
            Finding(
                f"The {name} feature's most correlated neuron",
                f"{d['paper']:.2f}",
                f"{r['correlation'][d['feature']]:.2f} (feature #{d['feature']}, neuron {r['neuron'][d['feature']]})",
                f"The feature with the best Pearson for the {name} proxy; {command}",
            )
            for name, d in r["named"].items()
            if d["paper"] is not None
        ),
        *(
            Finding(
                "The Arabic feature's direction is spread over many neurons",
                "27 with |weight| ≥ 0.1",
                f"{r['wide'][d['feature']]} (feature #{d['feature']}); median of all features {r['median_wide']:.0f}",
                f"Decoder rows of unit norm, {r['d_in']:,} neurons; {command}",
            )
            for name, d in r["named"].items()
            if name == "Arabic" and r["median_wide"] is not None
        ),
        *(
            Finding(
                f"The {name} context is in no neuron's top {TOP} examples",
                paper,
                f"in those of {r['top_neurons'][d['feature']]} neurons, at most "
                f"{r['top_share'][d['feature']] * TOP:.0f} of {TOP}",
                f"Examples where feature #{d['feature']} is active at half its maximum or more; {command}",
            )
            for name, d in r["named"].items()
            for paper in [{"Arabic": "1 neuron, 1 example", "Hebrew": "none"}.get(name)]
            if paper
        ),
    ]
    live = [i for i, v in enumerate(r["correlation"]) if v is not None]
    dots = live if len(live) <= 6000 else live[:: -(-len(live) // 6000)]
    marked = {name: d["feature"] for name, d in r["named"].items()}

    def points(which: list[int]) -> tuple[list[float], list[float]]:
        return [r["density"][i] for i in which], [r["correlation"][i] for i in which]

    body = [
        '<div class="side">',
        chart.histogram(
            {"features": r["histogram"]},
            r["edges"],
            x_label="Pearson with the most correlated neuron",
            caption="How close is the closest neuron?",
            marks={"median": r["median"]},
        ),
        chart.scatter(
            {"features": points(dots), "the named ones": points(list(marked.values()))},
            x_label="density: share of tokens",
            y_label="Pearson with the most correlated neuron",
            log_x=True,
            tips={"features": [f"feature {i}, neuron {r['neuron'][i]}" for i in dots], "the named ones": list(marked)},
            caption="Common features and rare ones",
            height=260,
        ),
        "</div>",
        f'<p class="note">The most correlated neuron is also the one of the largest decoder weight for '
        f"{r['same']:.0%} of the features.</p>",
        _table([*((name, i) for name, i in marked.items()), *(("nearest to a neuron", i) for i in r["nearest"])], r),
    ]
    return Section(
        anchor="neurons",
        title="Features are not neurons",
        intro=intro,
        findings=tuple(findings),
        body="\n".join(body),
        paper=papers_setting(r),
    )


def _table(which: list[tuple[str, int]], r: Mapping[str, Any]) -> str:
    heads = (
        "",
        "Feature",
        "Most correlated neuron",
        "Pearson",
        "Largest decoder weight",
        "Neurons with |w| ≥ 0.1",
        f"Neurons with it in their top {TOP}",
        "Most of one neuron's",
        "Active on",
    )
    rows = [
        [
            escape(name),
            feature(i),
            f"{r['neuron'][i]}",
            f"{r['correlation'][i]:.3f}",
            f"neuron {r['largest'][i]} ({r['coefficient'][i]:+.2f})",
            f"{r['wide'][i]}",
            f"{r['top_neurons'][i]}",
            f"{r['top_share'][i] * TOP:.0f} of {TOP}",
            f"{r['density'][i]:.3%}",
        ]
        for name, i in which
    ]
    return table(heads, rows, "No feature fires on this text.")
