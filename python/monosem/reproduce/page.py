"""The report: the table of claims, then every section, then how it was made."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from monosem.analysis.evidence import chart, numbers, rate
from monosem.analysis.evidence.recipes import RECIPES
from monosem.analysis.evidence.section import Finding, Section, papers_setting, write_page
from monosem.analysis.evidence.tables import table
from monosem.data import files, sealed
from monosem.reproduce import glossary
from monosem.reproduce.context import Context
from monosem.reproduce.presets import FIRST
from monosem.reproduce.runner import Stage
from monosem.reproduce.stages import all_stages, sections
from monosem.reproduce.training import stage_of


def write_report(context: Context, results: dict[str, dict[str, Any]]) -> Path:
    """``report.html`` and ``report.json`` (the table of claims and the dictionaries as data); returns the page.

    It has the claims whose stages have ended, and names the others. The main dictionary is there.
    """
    missing = [stage for stage in all_stages(context) if stage.name not in results]
    parts = [_loss(context, results), *sections(context, results)]
    beside = _beside_the_paper(results)
    parts.insert(2, _human(context, beside))
    trained = _dictionaries(context, results)
    record = {
        "settings": context.settings(),
        "dictionaries": [_row(results, name) for name in _trained(context, results)],
        "findings": [
            {"section": s.title} | asdict(f) | {"command": RECIPES[s.anchor].command} for s in parts for f in s.findings
        ],
        "seconds": {name: result["seconds"] for name, result in results.items()},
        "missing": [stage.name for stage in missing],
    }
    files.write_text(context.folder / "report.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    title = f"Towards Monosemanticity, computed on {context.model}"
    intro = _intro(context, beside, missing) + trained + glossary.words() + glossary.own_model(context)
    notes = _notes(context, results)
    return write_page(
        context.folder / "report.html", title, parts, intro, notes, glossary.places(context), _browsers(context)
    )


def _beside_the_paper(results: dict[str, dict[str, Any]]) -> bool:
    """Whether the paper's figures are comparable with this text."""
    return papers_setting(results.get("proxies", {}))


def _browsers(context: Context) -> dict[str, str]:
    """Names in the sections of the main dictionary, whose browser the page links to."""
    browser = numbers.browser(context.folder, context.folder)
    return dict.fromkeys(("", "A", "features", context.preset.main), browser)


def _trained(context: Context, results: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the dictionaries that are there."""
    return [run.name for run in context.runs if stage_of(run.name) in results]


def _intro(context: Context, beside: bool, missing: list[Stage]) -> str:
    seen = f"model {escape(context.model)} at <code>{escape(context.hook_name)}</code>"
    figures = (
        f"with the paper’s figure and the one found on {seen}. Where they differ, the model, the text and the length "
        "of training differ too: the paper’s was trained on 100 billion tokens and its dictionaries on 8 billion "
        "activations."
        if beside
        else f"with the figure measured on {seen} and on your text. The paper’s figures are left out: its kinds of "
        "text (Arabic, Hebrew, DNA, base64) are not in it."
    )
    unfinished = ""
    if missing:
        listed = "".join(f"<li>{escape(stage.title)}</li>" for stage in missing)
        unfinished = (
            f"<p><b>Not finished:</b> {len(missing)} of {len(all_stages(context))} stages are missing. The same "
            "command goes on, and writes this page again after each.</p>"
            f"<details><summary>Missing</summary><ul>{listed}</ul></details>"
        )
    links = {"features/index.html": "Browse all features", "rate/rate.html": "Rate them by hand"}
    there = [f'<a href="{to}">{words}</a>' for to, words in links.items() if (context.folder / to).is_file()]
    return f'<p class="lede">Each claim of Bricken et al. (2023), {figures}</p>{unfinished}<p>{" · ".join(there)}</p>'


def _row(results: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    result = results[stage_of(name)]
    kept = ("d_sae", "l0", "ce_loss_recovered", "explained_variance", "dead", "ultralow", "ultralow_bound")
    kept += ("ce_clean", "ce_sae", "ce_zero", "tokens")
    evaluation = result["evaluation"]
    return {
        "name": name,
        "model": evaluation["model"],
        "activations": result["steps"] * result["batch_size"],
        "seconds": result["seconds"],
        **{k: evaluation[k] for k in kept},
    }


def _dictionaries(context: Context, results: dict[str, dict[str, Any]]) -> str:
    """The dictionaries as an HTML table."""
    dictionaries = [_row(results, name) for name in _trained(context, results)]
    rows = [
        [
            escape(r["name"]),
            escape(r["model"]),
            f"{r['d_sae']:,}",
            f"{r['activations'] / 1e6:.1f} M",
            f"{r['l0']:.1f}",
            f"<b>{_percent(r['ce_loss_recovered'])}</b>",
            _percent(r["explained_variance"]),
            f"{r['dead'] / r['d_sae']:.1%}",
        ]
        for r in dictionaries
    ]
    heads = (
        "Dictionary",
        "Model",
        "Features",
        "Activations read",
        "L0",
        "CE loss recovered",
        "Explained variance",
        "Silent on held-out text",
    )
    return table(heads, rows, "No dictionary was trained.", figures=range(2, 8))


def _loss(context: Context, results: dict[str, dict[str, Any]]) -> Section:
    """Claim 0: a dictionary keeps most of what the layer contributes."""
    main, trained = context.preset.main, _trained(context, results)
    widest = next(run.name for run in reversed(context.preset.of(FIRST)) if run.name in trained)
    how = (
        "monosem evaluate {}: (CE with zeros − CE with the dictionary) / (CE with zeros − CE untouched), held-out text"
    )
    findings = []
    papers = {widest: "94.5 % (A/5, 131,072 features)", main: "79 % (A/1, 4,096 features)"}
    for name in dict.fromkeys((main, widest)):
        r = _row(results, name)
        findings.append(
            Finding(
                f"{r['d_sae']:,} features account for most of what the neurons contribute",
                papers[name],
                f"{_percent(r['ce_loss_recovered'])} at L0 {r['l0']:.1f} ({name})",
                how.format(context.dictionary(name).relative_to(context.folder)),
            )
        )
    silent = _row(results, main)
    findings.append(
        Finding(
            "Few features are dead",
            "4.1 % (168 of 4,096, of 100 M tokens)",
            f"{silent['dead'] / silent['d_sae']:.1%} silent on {silent['tokens']:,} held-out tokens",
            "monosem evaluate; fewer tokens leave more rare features silent",
        )
    )
    intro = (
        "The loss in the prediction of the next token when the layer is replaced by its reconstruction. The "
        "authors call it a weak measure: replacing the layer by zeros hurts so much that most of it is soon recovered."
    )
    rows = [_row(results, name) for name in trained]
    body = chart.bars(
        {
            "CE loss recovered": [_share(r["ce_loss_recovered"]) for r in rows],
            "explained variance": [_share(r["explained_variance"]) for r in rows],
        },
        [f"{r['name']}, {r['d_sae']:,} features" for r in rows],
        caption="Of held-out text, by dictionary",
    )
    return Section(
        anchor="loss",
        title="Loss recovered",
        intro=intro,
        findings=tuple(findings),
        body=body,
        paper=_beside_the_paper(results),
    )


def _share(value: float | None) -> float:
    return math.nan if value is None else value


def _human(context: Context, beside: bool = True) -> Section:
    """Claim 2: rated by hand. Its figures come only from a person's answers."""
    path = context.folder / "rate" / "rubric.json"
    if path.is_file():
        return rate.section(sealed.read(path, "out", "what `monosem rate --score` writes")[0])
    finding = Finding(
        "A person finds features far more interpretable than neurons",
        "median 12 of 14 (neurons 0)",
        "not rated yet",
        "rate/rate.html, then monosem rate --score ANSWERS.json --out rate, then the same monosem reproduce again",
    )
    intro = "The paper’s rubric needs a person, and has a page: features, neurons and controls, unlabelled."
    body = ""
    if (context.folder / "rate" / "rate.html").is_file():
        body = (
            '<p><a href="rate/rate.html">Rate them</a>: about a minute per item. Ratings are kept in the browser.</p>'
        )
    return Section(anchor="rubric", title="Rated by hand", intro=intro, findings=(finding,), body=body, paper=beside)


def _notes(context: Context, results: dict[str, dict[str, Any]]) -> list[str]:
    preset = context.preset
    sparsity = preset.architecture(1, preset.run(preset.main)).describe()
    own = "; ".join(
        f"{run.name} with {', '.join(f'{name} = {value}' for name, value in run.own_settings.items())}"
        for run in context.runs
        if run.own_settings
    )
    minutes = sum(r["seconds"] for r in results.values()) / 60
    other = f" and {context.other}" if context.other else ""
    return [
        f"Preset {preset.name!r}: {sparsity}, batches of {preset.batch_size:,}, Adam at {preset.lr:g}"
        f"{f' ({own})' if own else ''}, seed {context.seed}; text: {context.text}; models {context.model}{other}.",
        f"All stages together took {minutes:.0f} minutes. Each stage’s result is in evidence/, as JSON.",
        "For a model of your own: monosem reproduce --model NAME --other NAME2 --hook HOOK --text FILE.jsonl "
        "--out OUT. Each line of the table names the command that gives its figure alone.",
    ]


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"
