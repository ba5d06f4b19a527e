"""Every feature against every proxy, and a close look at the best of each beside the best neuron."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from monosem.analysis.evidence import token_html
from monosem.analysis.evidence.proxies.builtin import ProxySet
from monosem.analysis.evidence.proxies.intervals import intervals
from monosem.analysis.evidence.proxies.kinds import Proxy
from monosem.analysis.evidence.proxies.moments import ProxyMoments
from monosem.analysis.evidence.proxies.profile import Profile
from monosem.analysis.inputs import Subject
from monosem.analysis.neuron_basis import NeuronBasis, NeuronConfig
from monosem.analysis.scan import Block, Rows, blocks, entries, spread
from monosem.analysis.sources import paper_groups, sources_read
from monosem.analysis.windows import windows
from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary

PAPER = {"Arabic": 0.74, "Hebrew": 0.55, "DNA": 0.80, "base64": 0.38}


@dataclass(frozen=True)
class ProxyResult:
    """Result of :func:`measure`.

    Attributes:
        tokens: scored tokens.
        proxies: one dict per proxy: ``name``, ``how``, ``base_rate`` (share of tokens above 0), ``paper`` (its Pearson,
            or None), ``feature`` and ``neuron`` (the figures of :class:`Match`, the bootstrap interval of the
            correlation over contexts, its ``profile`` and ``examples`` by level; None where none follows the proxy;
            ``neuron`` also when the dictionary is the neurons), ``companions`` (the next best features).
        absent: built-in proxies that the text has nothing of.
        sources: names of the text's sources.
    """

    model: str
    hook_name: str
    kind: str
    d_sae: int
    tokens: int
    proxies: tuple[dict[str, Any], ...]
    absent: tuple[str, ...]
    sources: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """The figures as text for a terminal."""
        known = any(p["paper"] is not None for p in self.proxies)
        out = [
            f"{self.kind}, {self.d_sae:,} features on {self.hook_name} of {self.model}; {self.tokens:,} tokens",
            "Pearson of activation and proxy: the best feature, the best neuron"
            + (", the paper's feature" if known else ""),
            "",
        ]
        if not self.proxies:
            out.append("  no proxy has anything in this text")
        else:
            head = "   paper" if known else ""
            out.append(f"  proxy          feature  Pearson{head}   specific  sensitive  base rate     neuron  Pearson")
        for p in self.proxies:
            f, n = p["feature"], p["neuron"]
            paper = "" if not known else "        " if p["paper"] is None else f"  {p['paper']:6.2f}"
            beside = "" if n is None else f"    {n['index']:7}  {n['correlation']:7.3f}"
            if f is None:
                out.append(f"  {p['name'][:13]:13}  no feature follows it{paper}{'':14}{p['base_rate']:9.3%}{beside}")
                continue
            out.append(
                f"  {p['name'][:13]:13}  {f['index']:7}  {f['correlation']:7.3f}{paper}  {f['specificity']:9.1%}"
                f"  {f['sensitivity']:9.1%}  {p['base_rate']:9.3%}{beside}"
            )
        if self.absent:
            out += ["", "  not in this text: " + ", ".join(self.absent)]
        return "\n".join(out)


@torch.no_grad()
def measure(
    subject: Subject,
    rows: Rows,
    *,
    proxies: Sequence[Proxy] | None = None,
    extra: Sequence[Proxy] = (),
    tokens: int | None = None,
    contexts: int = 16,
    skip_positions: int = 1,
    companions: int = 4,
    neurons: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> ProxyResult:
    """Correlate every feature and every neuron with every proxy (*Towards Monosemanticity*, "Detailed Investigations").

    Two passes over the text: the first finds the best feature and neuron of each proxy, the second looks at them level
    by level. Memory: 3 · P · F sums in float64 and one block.

    Args:
        proxies: default :func:`monosem.analysis.evidence.proxies.builtin`; ``extra`` is added to them.
        tokens: read about so many tokens, in evenly spaced rows (default: all); frequencies are those of all ``rows``.
        companions: how many further features to name for each proxy.
        neurons: also measure the neurons, the positive part of the activations themselves.

    Raises:
        ValueError: the dictionary does not fit the hook, or there is nothing to read.
    """
    sae, model, hook_name = subject.sae, subject.model, subject.hook_name
    select = spread(rows, tokens)
    options = {"select": select, "contexts": contexts, "skip_positions": skip_positions}
    fitted = ProxySet(model, rows, proxies, extra)
    width = 0 if not neurons or sae.cfg.kind == NeuronConfig.kind else sae.cfg.d_in
    basis = NeuronBasis(max(width, 1), sae.W_dec.device)
    sums = [ProxyMoments(sae.cfg.d_sae, len(fitted.names)), ProxyMoments(width, len(fitted.names))]

    def read(what: str) -> Iterator[tuple[Block, Tensor, list[tuple[Tensor, Tensor, Tensor]]]]:
        for block in blocks(sae, model, hook_name, rows, progress=what if progress else None, **options):
            scores = fitted.scores(block.tokens).flatten(1)[:, block.where]
            codes = [(block.values, block.features, block.at)]
            if width:
                codes.append(entries(basis.encode(block.x)))
            yield block, scores, codes

    for _, scores, codes in read("correlating"):
        levels, positive = fitted.levels(scores), scores > 0
        for total, code in zip(sums, codes, strict=False):
            total.update(*code, levels, positive)
    correlations = [total.correlations() for total in sums]
    length = rows.tokens.shape[1]
    profiles = [
        [
            Profile(i, p, float(total.maximum[i]), length, seed)
            for p, (highest, i) in enumerate(zip(*(column.tolist() for column in r.max(1)), strict=True))
            if highest > 0  # else none follows this proxy
        ]
        if r.shape[1] and len(r)
        else []
        for total, r in zip(sums, correlations, strict=True)
    ]
    for block, scores, codes in read("levels"):
        levels = fitted.levels(scores)
        for wanted, (values, features, at) in zip(profiles, codes, strict=False):
            places = block.places_of(at)
            for profile in wanted:
                profile.update(block, values, features, at, scores, levels, places)

    shown = [
        _describe(dictionary, model, hook_name, rows, total, r, wanted, skip_positions)
        for dictionary, total, r, wanted in zip((sae, basis), sums, correlations, profiles, strict=True)
    ]
    here = sources_read(rows)
    labelled = paper_groups(here)
    out = []
    for p, proxy in enumerate(fitted.proxies):
        order = correlations[0][p].argsort(descending=True, stable=True)[1 : 1 + companions].tolist()
        out.append(
            {
                "name": proxy.name,
                "how": proxy.how,
                "base_rate": float(sums[0].positive[p]) / max(sums[0].tokens, 1),
                "paper": PAPER.get(proxy.name) if proxy.name in labelled else None,
                "feature": shown[0].get(p),
                "neuron": shown[1].get(p),
                "companions": [
                    asdict(sums[0].match(p, i, float(correlations[0][p, i]))) for i in order if sums[0].active[i] > 0
                ],
            }
        )
    return ProxyResult(
        model=model.name,
        hook_name=hook_name,
        kind=str(sae.cfg.kind),
        d_sae=sae.cfg.d_sae,
        tokens=sums[0].tokens,
        proxies=tuple(out),
        absent=tuple(fitted.absent),
        sources=tuple(here),
    )


def _describe(
    dictionary: Dictionary,
    model: LanguageModel,
    hook_name: str,
    rows: Rows,
    sums: ProxyMoments,
    r: Tensor,
    profiles: list[Profile],
    skip_positions: int,
) -> dict[int, dict[str, Any]]:
    """The figures of the best of each proxy that one follows, with examples of every level."""
    by_level = [profile.examples() for profile in profiles]
    pairs = [(p.index, e) for p, levels in zip(profiles, by_level, strict=True) for level in levels for e in level]
    spans = intervals([profile.contexts for profile in profiles])
    texts = iter(windows(dictionary, model, hook_name, rows, pairs, skip_positions=skip_positions) if pairs else [])
    out = {}
    for profile, levels, span in zip(profiles, by_level, spans, strict=True):
        match = sums.match(profile.proxy, profile.index, float(r[profile.proxy, profile.index]))
        examples = [[token_html.as_dict(next(texts)) for _ in level] for level in levels]
        out[profile.proxy] = asdict(match) | {
            "correlation_interval": span,
            "profile": profile.to_dict(),
            "examples": examples,
        }
    return out
