"""The section on feature splitting: the refinement graph of one feature, figures, and the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from monosem.analysis.evidence import chart, token_html
from monosem.analysis.evidence.numbers import feature, place
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.split_lists import lists
from monosem.analysis.report.page import embed

_PAPER = "1 → 3 → many more (512 → 4,096 → 16,384 features)"  # of base64 features


def section(result: Mapping[str, Any]) -> Section:
    """The section of the report, from :class:`Splitting` as a dict."""
    levels, nodes = result["levels"], result["nodes"]
    family = [sum(n["level"] == i for n in nodes) for i in range(len(levels))]
    what = result["label"] or f"Feature #{nodes[0]['feature']} of {levels[0]['name']}"
    widths = " → ".join(f"{level['d_sae']:,}" for level in levels)
    paper = _PAPER if what == "base64" else "splits"
    joined = (
        f"{result['tokens']:,} tokens: from #"
        f"{nodes[0]['feature']} of {levels[0]['name']}, the features of the next whose closest parent (largest masked "
        f"cosine, above {result['threshold']:g}) is in the family; joined to a member at all, closest or not: "
        f"{' → '.join(map(str, result['joined']))}; features that fire on at least {result['least']} tokens"
    )
    more = f" (and {result['omitted']} more, not followed)" if result["omitted"] else ""
    ours = " → ".join(map(str, family)) + more
    findings = [Finding(f"{what} splits as the dictionary grows ({widths})", paper, ours, joined)]
    if result["label"]:
        counts = " → ".join(str(level["label_features"]) for level in levels)
        how = f"features of which at least half of the tokens they fire on are {what}, and that fire on enough"
        findings.append(Finding(f"Features that fire mostly on {what} ({widths})", paper, counts, how))
    for a, b, step in zip(levels, levels[1:], result["steps"], strict=False):
        n = sum(step["children"])
        findings.append(
            Finding(
                f"Features of {a['d_sae']:,} become several of {b['d_sae']:,}",
                "most do, no figure given",
                f"{sum(step['children'][2:]):,} of {n:,} become several, {step['children'][1]:,} one, "
                f"{step['children'][0]:,} none",
                f"counted by closest parents; {step['several_parents']:,} have more than one (the graph is no tree), "
                f"{step['orphans']:,} none; the closest has the nearest decoder direction too for {step['agreed']:.0%}",
            )
        )
    if result["map"]:
        findings.append(_clusters(result))
    intro = (
        "Dictionaries of growing width, of one layer, on the same text. A feature of the small one splits into "
        "finer ones in the large one. Two features are joined where their activations have a high cosine over the "
        "tokens on which the finer one fires: there it does the same as the coarser one, on some of its tokens."
    )
    silent = [f"{level['d_sae']:,}" for level in levels if not level["alive"]]
    body = f'<p class="note">No feature of {", ".join(silent)} fires on this text.</p>' if silent else ""
    body += graph(result) + _family(result) + lists(result) + _counts(result) + _map(result)
    here = Path(__file__).parent
    scripts = ("feature_list.js", "split.js") if result["map"] else ()
    script = "".join((here / name).read_text(encoding="utf-8") for name in scripts)
    return Section(
        anchor="splitting",
        title="Features split",
        intro=intro,
        findings=tuple(findings),
        body=body,
        script=script,
        paper=papers_setting(result),
        dictionaries=tuple(level["name"] for level in levels),
    )


def _clusters(result: Mapping[str, Any]) -> Finding:
    """What HDBSCAN finds among the directions of all dictionaries."""
    cluster, level = result["map"]["cluster"], result["map"]["level"]
    members: dict[int, set[int]] = {}
    for c, of in zip(cluster, level, strict=True):
        members.setdefault(c, set()).add(of)
    members.pop(-1, None)
    several = sum(len(levels) > 1 for levels in members.values())
    inside = sum(c >= 0 for c in cluster) / max(1, len(cluster))
    return Finding(
        "Features lie in clusters, which hold features of every dictionary",
        "shown as a map, no figure given",
        f"{len(members):,} clusters hold {inside:.0%} of {len(cluster):,} features; {several:,} of them hold features "
        "of several dictionaries",
        "HDBSCAN (at least 3 members) on a UMAP of the decoder directions in 10 dimensions (cosine, 15 neighbours, "
        "min_dist 0.1), features that fire often enough",
    )


def graph(result: Mapping[str, Any]) -> str:
    """The refinement graph of the chosen feature: one column per dictionary, thicker lines for higher cosines."""
    levels, nodes, links = result["levels"], result["nodes"], result["links"]
    columns = [[n for n in nodes if n["level"] == i] for i in range(len(levels))]
    order = _ordered(columns, links)
    tall = max(len(c) for c in columns)
    step, width, top = 26.0, 980.0, 42.0
    height = top + step * tall + 10
    gap = (width - 230) / max(1, len(columns) - 1)
    at = {}
    for i, column in enumerate(order):
        offset = (tall - len(column)) * step / 2
        for j, n in enumerate(column):
            at[i, n["feature"]] = (20 + gap * i, top + offset + step * (j + 0.5))
    parts = [
        f'<text class="name" x="{20 + gap * i:.0f}" y="16">{level["d_sae"]:,} features</text>'
        f'<text x="{20 + gap * i:.0f}" y="31">{len(columns[i])} in the family</text>'
        for i, level in enumerate(levels)
    ]
    for k in sorted(links, key=lambda k: k["masked"]):
        (x1, y1), (x2, y2) = at[k["level"], k["parent"]], at[k["level"] + 1, k["child"]]
        strength = (k["masked"] - result["threshold"]) / (1 - result["threshold"] or 1)
        start, middle = x1 + 8, (x1 + x2) / 2
        tip = f"#{k['parent']} – #{k['child']}: masked cosine {k['masked']:.2f}, decoder cosine {k['decoder']:.2f}"
        parts.append(
            f'<path d="M{start:.0f},{y1:.1f}C{middle:.0f},{y1:.1f} {middle:.0f},{y2:.1f} {x2 - 8:.0f},{y2:.1f}" '
            f'style="fill:none;stroke:var(--s1);stroke-width:{1 + 3 * strength:.1f};'
            f'opacity:{0.2 + 0.5 * strength:.2f}">'
            f"<title>{escape(tip)}</title></path>"
        )
    for n in nodes:
        x, y = at[n["level"], n["feature"]]
        radius = max(3.0, min(9.0, 12 + 2.2 * _log(n["density"])))
        last = n["level"] == len(levels) - 1
        own = n["precision"] is None or n["precision"] >= 0.5
        words = " ".join(token_html.token(w) for w, _ in n["words"][:3])
        tip = f"#{n['feature']}: {n['tokens']:,} tokens, {n['share']:.0%} of them {n['source']}"
        node = (
            f'<g><title>{escape(tip)}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" '
            f'style="fill:var({"--s0" if own else "--s5"});stroke:var(--paper);stroke-width:1"/>'
            f'<text class="name" x="{x + (12 if last else -8):.1f}" y="{y + (4 if last else -12):.1f}" '
            f'style="paint-order:stroke;stroke:var(--paper);'
            f'stroke-width:4px;stroke-linejoin:round">#{n["feature"]} <tspan '
            'style="fill:var(--soft);unicode-bidi:isolate">'
            f"{escape(words[:34])}</tspan></text></g>"
        )
        parts.append(feature(n["feature"], levels[n["level"]]["name"], node))
    what = result["label"] or f"feature #{nodes[0]['feature']}"
    note = f"; {result['omitted']} more distant ones are left out" if result["omitted"] else ""
    mostly = f" Orange: at least half of the tokens it fires on are {what}." if result["label"] else ""
    caption = (
        f"Refinement of {what}. Each dot is a feature, with the tokens it fires on most; larger dots fire more often, "
        f"thicker lines mean a higher masked cosine{note}.{mostly} Point at a dot or a line for its figures."
    )
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption><div class="scroll"><svg viewBox="0 0 {width:.0f} '
        f'{height:.0f}" style="min-width:640px" role="img" '
        f'aria-label="{escape(caption)}">{"".join(parts)}</svg></div></figure>'
    )


def _ordered(columns: Sequence[list[Any]], links: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Each column sorted by the mean place of its parents, so that few lines cross."""
    out = [columns[0]]
    for level, column in enumerate(columns[1:]):
        place = {n["feature"]: i for i, n in enumerate(out[-1])}
        mean = {}
        for n in column:
            above = [place[k["parent"]] for k in links if k["level"] == level and k["child"] == n["feature"]]
            mean[n["feature"]] = sum(above) / max(1, len(above))
        out.append(sorted(column, key=lambda n: (mean[n["feature"]], -n["tokens"])))
    return out


def _family(result: Mapping[str, Any]) -> str:
    """The members one by one, with examples."""
    parts = []
    for n in result["nodes"]:
        own = f", {n['precision']:.0%} of them {escape(result['label'])}" if n["precision"] is not None else ""
        words = " ".join(token_html.bdi(w) for w, _ in n["words"])
        raised = " ".join(token_html.bdi(w) for w, _ in n["raised"])
        lines = "".join(_example(e) for e in n["examples"])
        width, name = (result["levels"][n["level"]][key] for key in ("d_sae", "name"))
        parts.append(
            f"<details {place(n['feature'], name)}><summary>{feature(n['feature'], name, home=True)} of {width:,}: "
            f"fires on {n['tokens']:,} tokens{own}</summary>"
            f'<p class="words">on {words}</p><p class="words">raises {raised}</p>{lines}</details>'
        )
    return f"<h3>The family, one by one</h3>{''.join(parts)}"


def _example(example: Mapping[str, Any]) -> str:
    top = max((p["value"] for p in example["pieces"]), default=0) or 1.0
    spans = [
        token_html.span(p["text"], p["value"] / top, tip=f"{p['value']:.2f}", focus=p["focus"])
        for p in example["pieces"]
    ]
    return token_html.row(spans, example["right_to_left"], example["source"])


def _counts(result: Mapping[str, Any]) -> str:
    charts = []
    for a, b, step in zip(result["levels"], result["levels"][1:], result["steps"], strict=False):
        last = len(step["children"]) - 1
        labels = [str(i) if i < last else f"{last} or more" for i in range(last + 1)]
        charts.append(
            chart.bars(
                {"features": step["children"]},
                labels,
                digits=0,
                caption=f"Children of each feature of {a['d_sae']:,} among {b['d_sae']:,}, by closest parent",
            )
        )
    return f'<h3>How many does a feature become?</h3><div class="side">{"".join(charts)}</div>'


def _map(result: Mapping[str, Any]) -> str:
    if not result["map"]:
        return (
            '<p class="note">There is no map of all features: it was not asked for, or too few fire often enough.</p>'
        )
    record = dict(result["map"]) | {
        "names": [f"{level['d_sae']:,} features" for level in result["levels"]],
        "label": result["label"],
        "dictionaries": [level["name"] for level in result["levels"]],
        "vocabulary": [token_html.token(text) for text in result["map"]["vocabulary"]],
    }
    left_out = f" {record['edges_left_out']:,} weaker links are left out." if record["edges_left_out"] else ""
    return (
        "<h3>All features on one map</h3>"
        f'<p class="note">Decoder directions laid out by UMAP (cosine, 15 neighbours): {len(record["x"]):,} features '
        f"that fire often enough, of {len(result['levels'])} dictionaries, so features with similar directions "
        "lie close together, whatever the dictionary. Point at a dot, click it to keep it and see what it is joined to "
        "and which others are in its cluster; drag to move, turn the wheel to come closer, double-click to see "
        "everything. The list has the same features in the order of a UMAP in one dimension, each cluster together and "
        f"in a colour of its own at the left; ↑ ↓ go through it.{left_out}</p>"
        '<div id="map-tools" class="tools"></div>'
        '<div class="map-and-list"><div class="map"><canvas id="map" tabindex="0" aria-label="Map of all features">'
        '</canvas><div id="map-tip" class="panel" hidden></div></div>'
        '<div id="map-list" tabindex="0" role="listbox" aria-label="All features, like beside like"><div></div></div>'
        "</div>"
        '<div id="map-keys" class="keys"></div><div id="map-chosen" class="panel" style="margin-top:.8rem" '
        "hidden></div>"
        f'<script type="application/json" id="map-data">{embed(record)}</script>'
    )


def _log(value: float) -> float:
    from math import log10

    return log10(max(value, 1e-9))
