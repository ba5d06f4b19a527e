"""Are the features just neurons? The nearest neuron of every feature, by activation, by decoder and by top examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.evidence import chart
from monosem.analysis.evidence.numbers import feature
from monosem.analysis.evidence.proxies import ProxySet
from monosem.analysis.evidence.proxies.moments import ProxyMoments
from monosem.analysis.evidence.section import Finding, Section, papers_setting
from monosem.analysis.evidence.tables import table
from monosem.analysis.index.neuron_moments import NeuronMoments, correlation
from monosem.analysis.index.reservoir import Reservoir
from monosem.analysis.neuron_basis import NeuronBasis, NeuronConfig
from monosem.analysis.scan import Block, blocks, entries, spread
from monosem.analysis.sources import LABELS, paper_groups, sources_read

PAPER = {"base64": 0.18, "Hebrew": 0.10}  # Pearson of the feature with its most correlated neuron
TOP = 20  # the paper searches this many examples of each neuron
_BYTES = 1 << 30  # of cross products held at a time
_BINS = 40


@dataclass(frozen=True)
class NeuronResult:
    """What :func:`measure` found. Lists of length F unless said otherwise; None for features that never fire.

    Attributes:
        neuron, correlation: the neuron with the largest Pearson, and that.
        largest, coefficient: the neuron with the decoder's largest |weight|, and that weight (decoder rows unit norm).
        wide: decoder weights with |weight| ≥ 0.1.
        top_neurons: neurons that have at least one of their 20 strongest examples (one of each context) where the
            feature is active at half its maximum or more; ``top_share``: the most of one neuron, as a share of 20.
        density: share of tokens on which the feature is active.
        same: share of live features whose most correlated neuron is also that of the largest decoder weight.
        edges, histogram: of ``correlation``.
        named: {proxy: feature} for the paper's kinds of text that this text has, the feature with the best Pearson.
        sources: names of the text's sources.
    """

    model: str
    hook_name: str
    kind: str
    d_sae: int
    d_in: int
    tokens: int
    neuron: list[int | None]
    correlation: list[float | None]
    largest: list[int | None]
    coefficient: list[float | None]
    wide: list[int | None]
    top_neurons: list[int | None]
    top_share: list[float | None]
    density: list[float]
    live: int
    median: float | None
    above: dict[str, float]
    same: float | None
    median_wide: float | None
    median_top_neurons: float | None
    median_top_share: float | None
    edges: list[float]
    histogram: list[int]
    named: dict[str, dict[str, Any]]
    nearest: list[int]
    sources: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """The figures as text for a terminal."""
        out = [
            f"{self.kind}, {self.d_sae:,} features on the {self.d_in:,} neurons of {self.hook_name} of {self.model}; "
            f"{self.tokens:,} tokens",
        ]
        if self.median is None:
            return "\n".join([*out, "no feature fires on this text"])
        out += [
            f"  most correlated neuron: Pearson {self.median:.3f} (median of {self.live:,} live features); "
            + ", ".join(f"{share:.1%} above {bound}" for bound, share in self.above.items()),
            f"  it is also the neuron of the largest decoder weight for {self.same:.1%}",
            f"  neurons with |decoder weight| ≥ 0.1: {self.median_wide:.0f} (median)",
            f"  neurons with the feature's context among their {TOP} strongest examples: {self.median_top_neurons:.0f} "
            f"(median); at most {self.median_top_share:.0%} of one neuron's (median)",
            "",
            "  feature            most correlated   Pearson  largest weight          |w| ≥ 0.1   in top 20 of",
        ]
        for name, f in [*((n, d["feature"]) for n, d in self.named.items()), *(("", i) for i in self.nearest[:5])]:
            out.append(
                f"  {f:6} {name[:10]:10}  neuron {self.neuron[f]:8}  {self.correlation[f]:8.3f}  neuron "
                f"{self.largest[f]:6} ({self.coefficient[f]:+.2f})  {self.wide[f]:10}  {self.top_neurons[f]:5} neurons"
                f", most {self.top_share[f]:.0%}"
            )
        return "\n".join(out)


@torch.no_grad()
def measure(
    sae: Any, model: Any, hook_name: str, rows: Any, *, tokens: int | None = None, contexts: int = 16,
    skip_positions: int = 1, memory: int = _BYTES, progress: bool = True,
) -> NeuronResult:  # fmt: skip
    """Compare every feature with every neuron (*Towards Monosemanticity*, "The Feature Is Not a Neuron").

    Neurons are the entries of the activation at the hook, their positive part where they may be negative. The cross
    products of F features and D neurons, with those of one block of text, take 8·F·D bytes; beyond ``memory`` the text
    is read once for each range of features that fits.

    Raises:
        ValueError: the dictionary is the neurons themselves, it does not fit the hook, or there is nothing to read.
    """
    if sae.cfg.kind == NeuronConfig.kind:
        raise ValueError("folder: these are the neurons themselves; wanted a dictionary to compare with them")
    d_sae, d_in = sae.cfg.d_sae, sae.cfg.d_in
    select = spread(rows, tokens)
    wide = max(1, memory // (8 * d_in))  # the sums, and those of a block
    strongest = Reservoir(d_in, TOP, "value")
    fitted = ProxySet(model, rows)
    proxies = ProxyMoments(d_sae, len(fitted.names))
    active, maximum = (
        torch.zeros(d_sae, dtype=torch.int64, device="cpu"),
        torch.zeros(d_sae, dtype=torch.float32, device="cpu"),
    )
    basis = NeuronBasis(d_in, sae.W_dec.device)

    def read(what: str) -> Iterator[Block]:
        yield from blocks(
            sae, model, hook_name, rows, select=select, contexts=contexts, skip_positions=skip_positions,
            progress=what if progress else None,
        )  # fmt: skip

    neuron, pearson = (
        torch.zeros(d_sae, dtype=torch.int64, device="cpu"),
        torch.zeros(d_sae, dtype=torch.float64, device="cpu"),
    )
    for first in range(0, d_sae, wide):
        end = min(first + wide, d_sae)
        cross = NeuronMoments(end - first, d_in)
        for block in read(f"features {first:,} to {end - 1:,}" if wide < d_sae else "correlating"):
            mine = (block.features >= first) & (block.features < end)
            cross.update(block.features[mine] - first, block.values[mine], block.at[mine], block.x.clamp_min(0))
            if first == 0:
                active += torch.bincount(block.features, minlength=d_sae)
                maximum.scatter_reduce_(0, block.features, block.values, "amax")
                _strongest(strongest, basis, block)
                scores = fitted.scores(block.tokens).flatten(1)[:, block.where]
                proxies.update(block.values, block.features, block.at, fitted.levels(scores), scores > 0)
        sums = proxies.f[first:end], proxies.square[first:end]
        r = correlation(cross.product, *sums, cross.sum, cross.square, proxies.tokens)
        pearson[first:end], neuron[first:end] = r.max(1)

    count, share = _in_top(sae, model, hook_name, rows, strongest, maximum, contexts)
    decoder = sae.W_dec.detach().float().cpu()
    decoder = decoder / decoder.norm(dim=1, keepdim=True).clamp_min(1e-30)
    largest = decoder.abs().argmax(1)
    live = active > 0
    alive = live.nonzero().flatten()
    best = proxies.correlations()
    here = sources_read(rows)
    labelled = paper_groups(here)
    named = {}
    for p, name in enumerate(fitted.names):
        if name in LABELS and float(best[p].max()) > 0:
            f = int(best[p].argmax())
            paper = PAPER.get(name) if name in labelled else None
            named[name] = {"feature": f, "proxy_pearson": float(best[p, f]), "paper": paper}
    edges = np.linspace(0, 1, _BINS + 1)
    shown = pearson[live].clamp(0, 1).numpy()
    nearest = alive[pearson[live].argsort(descending=True, stable=True)[:10]].tolist()

    def column(values: Tensor, number: type) -> list[Any]:
        return [number(v) if on else None for v, on in zip(values.tolist(), live.tolist(), strict=True)]

    def median(values: Tensor) -> float | None:
        return float(np.median(values[live].double().numpy())) if len(alive) else None

    broad = (decoder.abs() >= 0.1).sum(1)
    return NeuronResult(
        model.name, hook_name, str(sae.cfg.kind), d_sae, d_in, proxies.tokens,
        column(neuron, int), column(pearson, float), column(largest, int),
        column(decoder.gather(1, largest[:, None])[:, 0], float), column(broad, int), column(count, int),
        column(share, float), (active.double() / proxies.tokens).tolist(), len(alive), median(pearson),
        {str(b): float((pearson[live] > b).double().mean()) if len(alive) else 0.0 for b in (0.3, 0.5, 0.8)},
        float((neuron == largest)[live].double().mean()) if len(alive) else None,
        median(broad), median(count), median(share), edges.tolist(),
        np.histogram(shown, edges)[0].tolist(), named, nearest,
        tuple(here),
    )  # fmt: skip


def _strongest(held: Reservoir, basis: NeuronBasis, block: Block) -> None:
    """Each neuron's largest activation of every context of a block."""
    values, neurons, at = entries(basis.encode(block.x))
    local = block.where[at] // block.tokens.shape[1]
    cell = local * basis.cfg.d_in + neurons
    best = torch.zeros(len(block.row) * basis.cfg.d_in, dtype=torch.float32, device="cpu").scatter_reduce_(
        0, cell, values, "amax"
    )
    first = (values == best[cell]).nonzero().flatten().flip(0)
    entry = torch.full((len(best),), -1, dtype=torch.int64, device="cpu")
    entry[cell[first]] = first
    kept = entry[entry >= 0]
    held.update(neurons[kept], values[kept], block.places_of(at[kept]))


def _in_top(
    sae: Any, model: Any, hook_name: str, rows: Any, strongest: Reservoir, maximum: Tensor, contexts: int
) -> tuple[Tensor, Tensor]:
    """Per feature: neurons whose top examples hold its context, and the largest share of one neuron's: [F], [F]."""
    d_sae, length = len(maximum), rows.tokens.shape[1]
    neuron = torch.arange(len(strongest.places), device="cpu")[:, None].expand_as(strongest.places)[
        strongest.places >= 0
    ]
    place = strongest.places[strongest.places >= 0]
    keys = []
    order = place.argsort(stable=True)
    neuron, place = neuron[order], place[order]
    row = place // length
    for run in row.unique().split(contexts):
        mine = ((row >= run[0]) & (row <= run[-1])).nonzero().flatten()
        tokens = torch.from_numpy(np.asarray(rows.tokens)[run.numpy()].astype(np.int64))
        activations = model.activations(tokens, hook_name)
        local = torch.searchsorted(run, row[mine])
        x = activations[local, place[mine] % length].to(sae.W_dec.device, torch.float32)
        values, features, at = entries(sae.encode(x))
        strong = values >= maximum[features] / 2
        keys.append(features[strong] * len(strongest.places) + neuron[mine[at[strong]]])
    pairs, number = (
        torch.cat(keys).unique(return_counts=True)
        if keys
        else (torch.zeros(0, dtype=torch.float32, device="cpu").long(),) * 2
    )
    feature = pairs // max(len(strongest.places), 1)
    count = torch.bincount(feature, minlength=d_sae)
    share = torch.zeros(d_sae, dtype=torch.float64, device="cpu").scatter_reduce_(
        0, feature, number.double() / TOP, "amax"
    )
    return count, share


def section(result: Mapping[str, Any]) -> Section:
    """The section of :func:`measure`'s result, as a plain dict."""
    r, command = result, "monosem neurons RUN"
    lede = (
        "If features were neurons under another name, each would have a neuron that fires with it. For every live "
        "feature: the neuron with the highest Pearson correlation over all tokens (the paper trusts it more than the "
        "largest decoder weight, as neurons differ in scale), how many neurons its decoder direction is spread over, "
        f"and how often its context stands among any neuron's {TOP} strongest examples."
    )
    if r["median"] is None:
        none = (
            f'<p class="note">None of the {r["d_sae"]:,} features fires on the {r["tokens"]:,} tokens of this text.</p>'
        )
        return Section("neurons", "Features are not neurons", lede, (), none, paper=papers_setting(r))
    how = f"{r['live']:,} live features, {r['tokens']:,} tokens; {command}"
    findings = [
        Finding(
            "Features are not neurons: Pearson with the most correlated neuron, all features", "not given",
            f"{r['median']:.2f} (median); {r['above']['0.5']:.0%} above 0.5, {r['above']['0.8']:.0%} above 0.8", how,
        ),
        *(
            Finding(
                f"The {name} feature's most correlated neuron", f"{d['paper']:.2f}",
                f"{r['correlation'][d['feature']]:.2f} (feature #{d['feature']}, neuron {r['neuron'][d['feature']]})",
                f"The feature with the best Pearson for the {name} proxy; {command}",
            )
            for name, d in r["named"].items()
            if d["paper"] is not None
        ),
        *(
            Finding(
                "The Arabic feature's direction is spread over many neurons", "27 with |weight| ≥ 0.1",
                f"{r['wide'][d['feature']]} (feature #{d['feature']}); median of all features {r['median_wide']:.0f}",
                f"Decoder rows of unit norm, {r['d_in']:,} neurons; {command}",
            )
            for name, d in r["named"].items()
            if name == "Arabic" and r["median_wide"] is not None
        ),
        *(
            Finding(
                f"The {name} context is in no neuron's top {TOP} examples", paper,
                f"in those of {r['top_neurons'][d['feature']]} neurons, at most "
                f"{r['top_share'][d['feature']] * TOP:.0f} of {TOP}",
                f"Examples where feature #{d['feature']} is active at half its maximum or more; {command}",
            )
            for name, d in r["named"].items()
            for paper in [{"Arabic": "1 neuron, 1 example", "Hebrew": "none"}.get(name)]
            if paper
        ),
    ]  # fmt: skip
    live = [i for i, v in enumerate(r["correlation"]) if v is not None]
    dots = live if len(live) <= 6000 else live[:: -(-len(live) // 6000)]
    marked = {name: d["feature"] for name, d in r["named"].items()}

    def points(which: list[int]) -> tuple[list[float], list[float]]:
        return [r["density"][i] for i in which], [r["correlation"][i] for i in which]

    body = [
        '<div class="side">',
        chart.histogram(
            {"features": r["histogram"]}, r["edges"], x_label="Pearson with the most correlated neuron",
            caption="How close is the closest neuron?", marks={"median": r["median"]},
        ),
        chart.scatter(
            {"features": points(dots), "the named ones": points(list(marked.values()))},
            x_label="density: share of tokens", y_label="Pearson with the most correlated neuron", log_x=True,
            tips={"features": [f"feature {i}, neuron {r['neuron'][i]}" for i in dots], "the named ones": list(marked)},
            caption="Common features and rare ones", height=260,
        ),
        "</div>",
        f'<p class="note">The most correlated neuron is also the one of the largest decoder weight for '
        f"{r['same']:.0%} of the features.</p>",
        _table([*((name, i) for name, i in marked.items()), *(("nearest to a neuron", i) for i in r["nearest"])], r),
    ]  # fmt: skip
    return Section(
        "neurons", "Features are not neurons", lede, tuple(findings), "\n".join(body), paper=papers_setting(r)
    )


def _table(which: list[tuple[str, int]], r: Mapping[str, Any]) -> str:
    heads = ("", "Feature", "Most correlated neuron", "Pearson", "Largest decoder weight", "Neurons with |w| ≥ 0.1",
             f"Neurons with it in their top {TOP}", "Most of one neuron's", "Active on")  # fmt: skip
    rows = [
        [
            escape(name), feature(i), f"{r['neuron'][i]}", f"{r['correlation'][i]:.3f}",
            f"neuron {r['largest'][i]} ({r['coefficient'][i]:+.2f})", f"{r['wide'][i]}", f"{r['top_neurons'][i]}",
            f"{r['top_share'][i] * TOP:.0f} of {TOP}", f"{r['density'][i]:.3%}",
        ]
        for name, i in which
    ]  # fmt: skip
    return table(heads, rows, "No feature fires on this text.")
