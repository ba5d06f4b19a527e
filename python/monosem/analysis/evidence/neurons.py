"""Are the features just neurons? The nearest neuron of every feature, by activation, by decoder and by top examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.evidence.proxies import ProxySet
from monosem.analysis.evidence.proxies.moments import ProxyMoments
from monosem.analysis.index.neuron_moments import NeuronMoments, correlation
from monosem.analysis.index.reservoir import Reservoir
from monosem.analysis.inputs import Subject
from monosem.analysis.joined import Joined
from monosem.analysis.neuron_basis import NeuronBasis, NeuronConfig
from monosem.analysis.scan import Block, Rows, blocks, entries, spread
from monosem.analysis.sources import LABELS, paper_groups, sources_read
from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary

PAPER = {"base64": 0.18, "Hebrew": 0.10}  # Pearson of the feature with its most correlated neuron
TOP = 20  # the paper searches this many examples of each neuron
_BYTES = 1 << 30  # of cross products held at a time
_BINS = 40


@dataclass(frozen=True)
class NeuronResult:
    """Result of :func:`measure`. Lists of length F unless said otherwise; None for features that never fire.

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
    subject: Subject,
    rows: Rows,
    *,
    tokens: int | None = None,
    contexts: int = 16,
    skip_positions: int = 1,
    memory: int = _BYTES,
    progress: bool = True,
) -> NeuronResult:
    """Compare every feature with every neuron (*Towards Monosemanticity*, "The Feature Is Not a Neuron").

    Neurons are the entries of the activation at the hook, their positive part where they may be negative. The cross
    products of F features and D neurons, with those of one block of text, take 8·F·D bytes; beyond ``memory`` the text
    is read once for each range of features that fits.

    Raises:
        ValueError: the dictionary is the neurons themselves, it does not fit the hook, or there is nothing to read.
    """
    sae, model, hook_name = subject.sae, subject.model, subject.hook_name
    if sae.cfg.kind == NeuronConfig.kind:
        raise ValueError("folder: these are the neurons themselves; wanted a dictionary to compare with them")
    if isinstance(model, Joined):
        raise ValueError(
            f"folder: got a {sae.cfg.kind}, whose decoder is not in the space of the neurons that it reads; wanted a "
            "dictionary of one activation. `monosem compare RUN neurons:A` compares activations alone."
        )
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
            sae,
            model,
            hook_name,
            rows,
            select=select,
            contexts=contexts,
            skip_positions=skip_positions,
            progress=what if progress else None,
        )

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
        model=model.name,
        hook_name=hook_name,
        kind=str(sae.cfg.kind),
        d_sae=d_sae,
        d_in=d_in,
        tokens=proxies.tokens,
        neuron=column(neuron, int),
        correlation=column(pearson, float),
        largest=column(largest, int),
        coefficient=column(decoder.gather(1, largest[:, None])[:, 0], float),
        wide=column(broad, int),
        top_neurons=column(count, int),
        top_share=column(share, float),
        density=(active.double() / proxies.tokens).tolist(),
        live=len(alive),
        median=median(pearson),
        above={str(b): float((pearson[live] > b).double().mean()) if len(alive) else 0.0 for b in (0.3, 0.5, 0.8)},
        same=float((neuron == largest)[live].double().mean()) if len(alive) else None,
        median_wide=median(broad),
        median_top_neurons=median(count),
        median_top_share=median(share),
        edges=edges.tolist(),
        histogram=np.histogram(shown, edges)[0].tolist(),
        named=named,
        nearest=nearest,
        sources=tuple(here),
    )


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
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    rows: Rows,
    strongest: Reservoir,
    maximum: Tensor,
    contexts: int,
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
