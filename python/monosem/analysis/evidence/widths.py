"""How many features live in 512 neurons: dictionaries of several widths, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import torch

from monosem.analysis.evidence import chart
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.tables import figure, table
from monosem.analysis.evidence.ultralow import separate
from monosem.analysis.metrics import density_histogram, evaluate, plain
from monosem.analysis.scan import Block, blocks, spread
from monosem.analysis.sources import sources_read

PAPER = {4096: 0.79, 131072: 0.945}  # CE loss recovered (Loss recovered; A/1 and A/5)


@dataclass(frozen=True)
class WidthsResult:
    """What :func:`measure` found.

    Attributes:
        d_in: neurons. tokens: of the losses. density_tokens: of the densities.
        runs: one dict a dictionary, narrowest first: ``name``, ``kind``, ``d_sae``, ``live`` (active and outside the
            ultralow cluster), ``ultralow``, ``dead``, ``separation`` (how, in words), ``cut``, ``l0``,
            ``ce_loss_recovered``, ``explained_variance``, ``above_1_percent``, ``edges`` (log10 density), ``counts``
            and ``low_counts`` (of the cluster).
    """

    model: str
    hook_name: str
    d_in: int
    tokens: int
    density_tokens: int
    runs: tuple[dict[str, Any], ...]
    sources: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return plain(asdict(self))

    def table(self) -> str:
        """The figures as text for a terminal."""
        out = [
            f"{self.d_in:,} neurons at {self.hook_name} of {self.model}; losses on {self.tokens:,} tokens, densities "
            f"on {self.density_tokens:,}",
            "",
            "  dictionary            features      live  ultralow      dead     L0  CE recovered  variance  cluster",
        ]
        for r in self.runs:
            out.append(
                f"  {r['name'][-20:]:20}  {r['d_sae']:8,}  {r['live']:8,}  {r['ultralow']:8,}  {r['dead']:8,}  "
                f"{r['l0']:5.1f}  {figure(r['ce_loss_recovered'], '.2%'):>12}  "
                f"{figure(r['explained_variance'], '.2%'):>8}  {r['separation']}"
            )
        return "\n".join(out)


@torch.no_grad()
def measure(
    dictionaries: Mapping[str, Any], model: Any, hook_name: str, rows: Any, *, tokens: int | None = None,
    density_tokens: int | None = None, contexts: int = 16, skip_positions: int = 1, progress: bool = True,
) -> WidthsResult:  # fmt: skip
    """Compare dictionaries of one model and hook (*Towards Monosemanticity*, "Feature Density", "Loss recovered").

    Args:
        dictionaries: {name: autoencoder}.
        tokens: about so many for the losses (three forward passes each), in evenly spaced rows.
        density_tokens: about so many for the densities; a density below 1 / density_tokens cannot be seen.
            Default: as many as ``tokens``.

    Raises:
        ValueError: no dictionary, one does not fit the hook, or there is nothing to read.
    """
    if not dictionaries:
        raise ValueError("dictionaries: got none; wanted at least one")
    select = spread(rows, density_tokens or tokens)
    more = len(select) > len(spread(rows, tokens))
    runs, scored, baselines = [], (0, 0), {}
    for name, sae in sorted(dictionaries.items(), key=lambda item: (item[1].cfg.d_sae, item[0])):
        counts = torch.zeros(sae.cfg.d_sae, dtype=torch.int64, device="cpu")
        seen = 0

        def count(block: Block, counts: torch.Tensor = counts) -> None:
            nonlocal seen
            counts += torch.bincount(block.features, minlength=len(counts))
            seen += len(block.source)

        found = evaluate(
            sae, model, hook_name, rows, tokens=tokens, contexts=contexts, skip_positions=skip_positions,
            observers=() if more else (count,), baselines=baselines, progress=progress,
        )  # fmt: skip
        if more:
            for block in blocks(
                sae, model, hook_name, rows, select=select, contexts=contexts, skip_positions=skip_positions,
                progress=f"densities of {name}" if progress else None,
            ):  # fmt: skip
                count(block)
        cluster = separate(counts, seen, sae)
        low = torch.from_numpy(cluster.low)
        edges, bars = density_histogram(counts, seen)
        dead = int((counts == 0).sum())
        runs.append(
            {
                "name": name, "kind": str(sae.cfg.kind), "d_sae": sae.cfg.d_sae,
                "live": sae.cfg.d_sae - dead - int(low.sum()), "ultralow": int(low.sum()), "dead": dead,
                "separation": cluster.words, "how": cluster.how, "cut": cluster.cut, "l0": found.l0,
                "ce_loss_recovered": found.ce_loss_recovered, "explained_variance": found.explained_variance,
                "above_1_percent": int((counts / seen > 0.01).sum()), "edges": list(edges), "counts": list(bars),
                "low_counts": list(density_histogram(counts[low], seen)[1]),
            }
        )  # fmt: skip
        scored = found.tokens, seen
    return WidthsResult(model.name, hook_name, model.width(hook_name), *scored, tuple(runs), tuple(sources_read(rows)))


def section(result: Mapping[str, Any]) -> Section:
    """The section of :func:`measure`'s result, as a plain dict."""
    runs: Sequence[Mapping[str, Any]] = result["runs"]
    command = "monosem widths RUN0 RUN1 …"
    most = max(runs, key=lambda r: r["live"])
    findings = [
        Finding(
            f"Far more features than neurons ({result['d_in']:,} of them)", "tens of thousands, no end at 131,072",
            f"{most['live']:,} live features outside the ultralow cluster, of {most['d_sae']:,} "
            f"({most['live'] / result['d_in']:.1f} per neuron)",
            f"{result['density_tokens']:,} tokens; {most['separation']}; {command}",
        )
    ]  # fmt: skip
    for r in runs:
        if r["d_sae"] in PAPER:
            findings.append(
                Finding(
                    f"CE loss recovered with {r['d_sae']:,} features", f"{PAPER[r['d_sae']]:.1%}",
                    f"{figure(r['ce_loss_recovered'], '.1%')} at L0 {r['l0']:.1f} ({r['name']})",
                    f"(zeros − dictionary) / (zeros − untouched), {result['tokens']:,} tokens; {command}",
                )
            )  # fmt: skip
        if r["d_sae"] == 4096:
            findings.append(
                Finding(
                    "Dead and ultralow-density features of 4,096", "168 and 292",
                    f"{r['dead']} and {r['ultralow']} ({r['name']})",
                    f"Never active on {result['density_tokens']:,} tokens (there: 100 M); in the cluster; {command}",
                )
            )  # fmt: skip
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
            x_label="features in the dictionary", y_label="live features", log_x=True, log_y=True,
            dashed=("as many as neurons", "all of them"), caption="Live features outside the ultralow cluster",
        ),
        chart.lines(
            curve("ce_loss_recovered"), x_label="features in the dictionary", y_label="CE loss recovered", log_x=True,
            caption="What the dictionary keeps of the model",
        ),
        chart.lines(
            curve("l0"), x_label="features in the dictionary", y_label="features active on a token", log_x=True,
            zero=True, caption="L0",
        ),
        "</div>",
        _table(runs),
        "<h3>Density histograms</h3><p class=\"note\">How often features fire, on a logarithmic scale. A second mode "
        "on the left is the ultralow cluster, whose features mean nothing; dead features are not shown.</p>",
        '<div class="side">',
        *(_histogram(r) for r in runs),
        "</div>",
    ]  # fmt: skip
    lede = (
        "Dictionaries of different widths explain the same neurons. If the number of features were about the number of "
        "neurons, wider dictionaries would fill with dead or meaningless features. Only features that fire outside "
        "the ultralow-density cluster count."
    )
    return Section(
        "widths", "Many more features than neurons", lede, tuple(findings), "\n".join(body),
        paper=papers_setting(result),
    )  # fmt: skip


def _histogram(r: Mapping[str, Any]) -> str:
    edges = [10.0**e for e in r["edges"]]
    kept = [a - b for a, b in zip(r["counts"], r["low_counts"], strict=True)]
    marks = {"cut": r["cut"]} if r["cut"] else {}
    series = {"live": kept, **({"ultralow": r["low_counts"]} if r["ultralow"] else {})}
    return chart.histogram(
        series, edges, x_label="density: share of tokens", stacked=True, log_x=True, marks=marks, height=220,
        caption=f"{r['name']}: {r['d_sae']:,} features, {r['dead']:,} dead ({r['separation']})",
    )  # fmt: skip


def _table(runs: Sequence[Mapping[str, Any]]) -> str:
    heads = ("Dictionary", "kind", "features", "live", "ultralow", "dead", "denser than 1 %", "L0", "CE recovered",
             "explained variance")  # fmt: skip
    rows = [
        [
            escape(r["name"]), escape(r["kind"]), f"{r['d_sae']:,}", f"{r['live']:,}", f"{r['ultralow']:,}",
            f"{r['dead']:,}", f"{r['above_1_percent']:,}", f"{r['l0']:.1f}", figure(r["ce_loss_recovered"], ".2%"),
            figure(r["explained_variance"], ".2%"),
        ]
        for r in runs
    ]  # fmt: skip
    return table(heads, rows, "No dictionary was compared.", figures=range(2, len(heads)))
