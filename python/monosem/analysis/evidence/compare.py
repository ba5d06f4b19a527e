"""Universality: do two models learn the same features?

*Towards Monosemanticity*, "Universality": for each feature of one model the feature of the other whose activations on
the same text correlate best with its own (median 0.72 there, 0.46 for neurons); whether such pairs also do the same is
seen in their logit weights, and in attributions, activation × logit weight of the actual next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.analysis.cross_products import CrossProducts, Entries
from monosem.analysis.evidence.compare_page import section as section
from monosem.analysis.logit_table import LogitTable
from monosem.analysis.logits import used_vocabulary
from monosem.analysis.metrics import plain
from monosem.analysis.neuron_basis import NeuronBasis
from monosem.analysis.scan import Block, Rows, blocks, entries, spread
from monosem.analysis.sources import SourceMoments, group_sources, sources_read
from monosem.nn import TopKSAE

BINS = 50


@dataclass(frozen=True)
class Matches:
    """For each feature of one dictionary its best match in the other.

    Attributes:
        feature: int64 [n], the features that fire on at least ``least`` tokens.
        match: int64 [n], the feature of the other dictionary with the largest correlation.
        r: float64 [n], that Pearson correlation of the activations.
        attribution: float64 [n], Pearson correlation of the attributions of the pair; NaN where not measured.
        logits: float64 [n], Pearson correlation of their logit weights over the used vocabulary; NaN likewise.
        tokens: int64 [n], on how many tokens the feature fires.
    """

    feature: Tensor
    match: Tensor
    r: Tensor
    attribution: Tensor
    logits: Tensor
    tokens: Tensor

    def quantiles(self) -> list[float]:
        """The 10, 25, 50, 75 and 90 % quantiles of r."""
        if not len(self.r):
            return [float("nan")] * 5
        return torch.quantile(
            self.r, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64, device="cpu")
        ).tolist()


@dataclass(frozen=True)
class Side:
    """One side of a comparison: name, number of features, how many fire at all."""

    name: str
    features: int
    alive: int


@dataclass(frozen=True)
class Comparison:
    """Best matches of A's features among B's, and of B's among A's (``backward``), as a distribution.

    ``histogram``: counts of r in ``BINS`` equal bins from 0 to 1 (a negative best match counts in the first).
    """

    name: str
    a: Side
    b: Side
    compared: int
    quantiles: tuple[float, ...]
    backward: tuple[float, ...]
    histogram: tuple[int, ...]
    matches: Matches = field(repr=False, compare=False)

    @property
    def median(self) -> float:
        return self.quantiles[2]


@dataclass(frozen=True)
class LabelPair:
    """The best feature of a label in A, its best match in B, and whether that is B's best feature of the label."""

    label: str
    a: int
    b: int
    r: float
    attribution: float
    logits: float
    b_of_label: int
    label_a: float
    label_b: float


@dataclass(frozen=True)
class Universality:
    """Everything that was compared; ``to_dict`` leaves out the tensors."""

    tokens: int
    least: int
    same_model: bool
    comparisons: tuple[Comparison, ...]
    labels: tuple[LabelPair, ...]
    logits_median: float
    attribution_median: float
    points: dict[str, Any]
    examples: tuple[dict[str, Any], ...]
    sources: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Comparison:
        return next(c for c in self.comparisons if c.name == name)

    def to_dict(self) -> dict[str, Any]:
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("comparisons", "labels")}
        for name in ("comparisons", "labels"):
            record[name] = [
                {k: asdict(v) if isinstance(v, Side) else v for k, v in vars(c).items() if k != "matches"}
                for c in getattr(self, name)
            ]
        return plain(record)

    def table(self) -> str:
        """The figures for the terminal."""
        lines = [
            f"{self.tokens:,} tokens; features that fire on at least {self.least} of them",
            f"{'best match, Pearson r':34} {'compared':>9}   10 %   25 %  median  75 %   90 %   median B to A",
        ]
        for c in self.comparisons:
            q = "  ".join(f"{v:5.3f}" for v in c.quantiles)
            lines.append(f"{c.name:34} {c.compared:>9,}  {q}   {c.backward[2]:.3f}")
        lines.append(
            f"of the pairs of features, median correlation of logit weights {self.logits_median:.3f}, of attributions "
            f"{self.attribution_median:.3f}"
        )
        for p in self.labels:
            same = "" if p.b == p.b_of_label else f" (B's best for the label is #{p.b_of_label})"
            lines.append(
                f"{p.label:9} #{p.a} – #{p.b}: activations {p.r:.2f}, attributions {p.attribution:.2f}, logit weights "
                f"{p.logits:.2f}{same}"
            )
        return "\n".join(lines)


@torch.no_grad()
def measure(
    a: Any, b: Any, rows: Rows, *, tokens: int | None = None, least: int = 20, baseline: bool = True, seed: int = 0,
    skip_positions: int = 1, contexts: int = 16, memory: int = 1 << 30, folder: str | Path | None = None,
    progress: bool = False,
) -> Universality:  # fmt: skip
    """Compare two dictionaries on the same tokens; their models' neurons too, if the models differ.

    Args:
        a, b: subjects (``load_subject``): of two models, or two dictionaries of one. The models share a tokenizer.
        tokens: read about so many, in evenly spaced rows (default: all).
        least: features of fewer active tokens are not compared: a correlation of so few says nothing.
        baseline: also match with random directions in B: as many, as many of them active on a token as B's features.
        memory: bytes of sums held at a time by each comparison; beyond it codes go to ``folder`` (``CrossProducts``).

    Raises:
        ValueError: the models do not share their tokenizer, or a dictionary does not fit its hook.
    """
    check_tokenizers(a.model, b.model, rows)
    same = a.model.name == b.model.name and a.hook_name == b.hook_name
    used = used_vocabulary(torch.as_tensor(rows.tokens, device="cpu"), a.model.d_vocab)
    logits = [LogitTable(s.sae, s.model, s.hook_name, used, memory) for s in (a, b)]
    select = spread(rows, tokens)
    read = [
        blocks(
            s.sae, s.model, s.hook_name, rows, select=select, contexts=contexts, skip_positions=skip_positions,
            progress="comparing" if progress and s is b else None,
        )
        for s in (a, b)
    ]  # fmt: skip
    ours, theirs = (SourceMoments(s.sae.cfg.d_sae, rows.sources) for s in (a, b))
    pairs: dict[str, _Pair] = {}
    try:
        for block_a, block_b in zip(*read, strict=True):
            n = len(block_a.x)
            ours.update(block_a)
            theirs.update(block_b)
            if not pairs:
                pairs = _pairs(a, b, block_b, same, baseline, memory, folder, seed)
            code_a, code_b = (_with_attributions(x, t) for x, t in zip((block_a, block_b), logits, strict=True))
            pairs["features"].update(code_a, code_b, n)
            for name, x in (("neurons", block_a.x), ("random directions", None)):
                if name in pairs:
                    first = _encoded(pairs[name].a, x) if x is not None else _first(code_a)
                    pairs[name].update(first, _encoded(pairs[name].b, block_b.x), n)
        comparisons = tuple(pair.finish(least, logits if name == "features" else None) for name, pair in pairs.items())
    finally:
        for pair in pairs.values():
            pair.products.close()
    found = comparisons[0].matches
    return Universality(
        int(ours.tokens.sum()), least, same, comparisons, _labels(ours, theirs, found),
        float(found.logits.nanmedian()), float(found.attribution.nanmedian()), _points(found),
        _examples(found, a.model, logits), tuple(sources_read(rows)),
    )  # fmt: skip


def check_tokenizers(a: Any, b: Any, rows: Rows) -> None:
    """Raise ValueError unless both models read text as the same tokens."""
    probe = a.decode([t for t in torch.as_tensor(rows.tokens[0], device="cpu").tolist() if t != a.bos_id])
    if (a.d_vocab, a.bos_id) != (b.d_vocab, b.bos_id) or a.encode(probe) != b.encode(probe):
        raise ValueError(
            f"models: {a.name!r} and {b.name!r} do not share a tokenizer; wanted two models that read text as the same "
            "tokens, so that activations can be compared token by token"
        )


class _Pair:
    """Two dictionaries and the sums of their codes."""

    def __init__(self, name: str, a: Any, b: Any, sides: tuple[str, str], products: int, memory: int, folder: Any):
        self.name, self.a, self.b, self.sides = name, a, b, sides
        self.products = CrossProducts(a.cfg.d_sae, b.cfg.d_sae, products, memory, folder)
        self.moments = [_Moments(s.cfg.d_sae, products) for s in (a, b)]

    def update(self, a: Entries, b: Entries, tokens: int) -> None:
        self.products.update(a, b, tokens)
        for moments, code in zip(self.moments, (a, b), strict=True):
            moments.update(code, tokens)

    def finish(self, least: int, logits: Sequence[LogitTable] | None) -> Comparison:
        a, b = self.moments
        n = len(a.counts)
        best, match = torch.zeros(n, dtype=torch.float64, device="cpu"), torch.zeros(n, dtype=torch.int64, device="cpu")
        back = torch.full((len(b.counts),), -1.0, dtype=torch.float64, device="cpu")
        attribution = torch.full((n,), torch.nan, dtype=torch.float64, device="cpu")
        fires, answers = a.counts >= least, b.counts > 0
        columns = (answers if answers.any() else ~answers).nonzero().flatten()
        for numbers, sums in self.products.blocks(fires.nonzero().flatten(), columns):
            r = correlation(sums[0], a, b, 0, numbers, columns)
            best[numbers], at = r.max(1)
            match[numbers] = columns[at]
            back[columns] = torch.maximum(back[columns], r.max(0).values)
            if len(sums) > 1:
                attribution[numbers] = _pairwise(
                    sums[1][torch.arange(len(at), device="cpu"), at], a, b, 1, numbers, match[numbers]
                )  # fmt: skip
        feature = fires.nonzero().flatten()
        if not len(feature):
            raise ValueError(
                f"least: no feature of {self.sides[0]} fires on {least} of the {a.tokens:,} tokens; read more "
                "text, or compare rarer features too"
            )
        agreed = torch.full((len(feature),), torch.nan, dtype=torch.float64, device="cpu")
        if logits is not None:
            for start in range(0, len(feature), 512):
                f = feature[start : start + 512]
                agreed[start : start + 512] = _row_correlation(logits[0].rows(f), logits[1].rows(match[f]))
        found = Matches(feature, match[feature], best[feature], attribution[feature], agreed, a.counts[feature])
        back = Matches(*[back[b.counts >= least]] * 6)
        counts = torch.histc(found.r.clamp(0, 1).float(), BINS, 0, 1).int().tolist()
        sides = [
            Side(name, len(m.counts), int((m.counts > 0).sum()))
            for name, m in zip(self.sides, self.moments, strict=True)
        ]
        return Comparison(
            self.name, *sides, len(feature), tuple(found.quantiles()), tuple(back.quantiles()), tuple(counts), found
        )


class _Moments:
    """Σu, Σu² of each value of each feature, float64 [P, F]; the tokens on which it fires; tokens read."""

    def __init__(self, d_sae: int, products: int) -> None:
        self.sum, self.square = (torch.zeros(products, d_sae, dtype=torch.float64, device="cpu") for _ in range(2))
        self.counts, self.tokens = torch.zeros(d_sae, dtype=torch.int64, device="cpu"), 0

    def update(self, code: Entries, tokens: int) -> None:
        values = code.values.double()
        self.sum.index_add_(1, code.features, values)
        self.square.index_add_(1, code.features, values.square())
        self.counts += torch.bincount(code.features, minlength=len(self.counts))
        self.tokens += tokens

    def mean(self, p: int) -> Tensor:
        return self.sum[p] / self.tokens

    def deviation(self, p: int) -> Tensor:
        return (self.square[p] / self.tokens - self.mean(p).square()).clamp_min(0).sqrt()


def correlation(sums: Tensor, a: _Moments, b: _Moments, p: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Pearson's r of some features of A (``rows``) with some of B (``columns``); 0 where either never varies."""
    scale = a.deviation(p)[rows, None] * b.deviation(p)[columns]
    r = sums / a.tokens - a.mean(p)[rows, None] * b.mean(p)[columns]
    return torch.where(scale > 0, r / scale, torch.zeros((), dtype=r.dtype, device="cpu"))


def _pairwise(sums: Tensor, a: _Moments, b: _Moments, p: int, i: Tensor, j: Tensor) -> Tensor:
    scale = a.deviation(p)[i] * b.deviation(p)[j]
    r = sums / a.tokens - a.mean(p)[i] * b.mean(p)[j]
    return torch.where(scale > 0, r / scale, torch.zeros((), dtype=r.dtype, device="cpu"))


def _row_correlation(u: Tensor, v: Tensor) -> Tensor:
    u, v = (w.double() - w.double().mean(1, keepdim=True) for w in (u, v))
    return (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)).clamp_min(1e-300)


def _pairs(
    a: Any, b: Any, block: Block, same: bool, baseline: bool, memory: int, folder: Any, seed: int
) -> dict[str, _Pair]:
    out = {"features": _Pair("features", a.sae, b.sae, ("A", "B"), 2, memory, folder)}
    if not same:
        neurons = [NeuronBasis(s.model.width(s.hook_name), s.sae.W_dec.device) for s in (a, b)]
        out["neurons"] = _Pair("neurons", *neurons, ("A's neurons", "B's neurons"), 1, memory, folder)
    if baseline:
        k = max(1, min(b.sae.cfg.d_sae, round(len(block.values) / len(block.x))))
        # Not the seed that a dictionary may have begun from: it would be compared with its own beginnings.
        random = TopKSAE(b.sae.cfg.d_in, b.sae.cfg.d_sae, k=k, seed=seed + 1_000_003).to(b.sae.W_dec.device)
        random.b_dec.copy_(b.sae.b_dec)
        sides = ("A", "random directions in B")
        out["random directions"] = _Pair("random directions", a.sae, random, sides, 1, memory, folder)
    return out


def _with_attributions(block: Block, logits: LogitTable) -> Entries:
    """Activations, and activations × logit weight of the token that follows (0 at the end of a row)."""
    following = torch.full_like(block.tokens, -1)
    following[:, :-1] = block.tokens[:, 1:]
    following = following.flatten()[block.where][block.at]
    last = following < 0
    weights = logits.at(block.features, following.clamp_min(0)).masked_fill_(last, 0.0)
    return Entries(block.features, block.at, torch.stack([block.values, block.values * weights]))


def _first(code: Entries) -> Entries:
    return Entries(code.features, code.at, code.values[:1])


def _encoded(sae: Any, x: Tensor) -> Entries:
    values, features, at = entries(sae.encode(x))
    return Entries(features, at, values[None])


def _labels(a: SourceMoments, b: SourceMoments, found: Matches) -> tuple[LabelPair, ...]:
    groups = group_sources(a.sources)
    at = {f: i for i, f in enumerate(found.feature.tolist())}
    out = []
    theirs = {best.label: best for best in b.best(groups)}
    for best in a.best(groups):
        there = theirs.get(best.label)
        if best.feature in at and there is not None:
            i = at[best.feature]
            figures = (float(v[i]) for v in (found.r, found.attribution, found.logits))
            correlations = best.correlation, there.correlation
            out.append(LabelPair(best.label, best.feature, int(found.match[i]), *figures, there.feature, *correlations))
    return tuple(out)


def _points(found: Matches, most: int = 1500) -> dict[str, Any]:
    """A fair sample of the pairs for the scatter plots."""
    step = max(1, -(-len(found.r) // most))
    columns = {"feature": found.feature, "match": found.match, "tokens": found.tokens}
    rounded = {"r": found.r, "attribution": found.attribution, "logits": found.logits}
    return {k: v[::step].tolist() for k, v in columns.items()} | {
        k: [round(x, 4) for x in v[::step].tolist()] for k, v in rounded.items()
    }


def _examples(found: Matches, model: Any, logits: Sequence[LogitTable], count: int = 12) -> tuple[dict[str, Any], ...]:
    """Pairs at evenly spaced ranks of r, with the tokens that each side raises most."""
    order = torch.argsort(found.r, descending=True)
    count = min(count, len(order))
    out = []
    for n in range(count):
        i = int(order[(2 * n + 1) * len(order) // (2 * count)])
        raised = [
            [model.token_str(token) for token, _ in table.top(int(f[i]), 6)]
            for table, f in zip(logits, (found.feature, found.match), strict=True)
        ]
        out.append(
            {
                "a": int(found.feature[i]), "b": int(found.match[i]), "r": float(found.r[i]),
                "logits": float(found.logits[i]), "raised_a": raised[0], "raised_b": raised[1],
            }
        )  # fmt: skip
    return tuple(out)
