"""Universality: do two models learn the same features?

*Towards Monosemanticity*, "Universality": for each feature of one model the feature of the other whose activations on
the same text correlate best with its own (median 0.72 there, 0.46 for neurons); whether such pairs also do the same is
seen in their logit weights, and in attributions, activation × logit weight of the actual next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.analysis.cross_products import Entries
from monosem.analysis.evidence.best_matches import (
    Comparison,
    Matches,
    MatchSums,
    Side,
)
from monosem.analysis.evidence.proxies.labelled import LabelMoments
from monosem.analysis.inputs import Subject
from monosem.analysis.joined import Joined
from monosem.analysis.logit_table import LogitTable
from monosem.analysis.logits import used_vocabulary
from monosem.analysis.metrics import plain
from monosem.analysis.neuron_basis import NeuronBasis
from monosem.analysis.scan import Block, Rows, blocks, entries, shared_limit, spread
from monosem.analysis.sources import SourceMoments, group_sources, sources_read
from monosem.data.protocols import LanguageModel, check_suits
from monosem.nn import TopKSAE
from monosem.nn.dictionary import Dictionary


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
    """The result of :func:`measure`; ``to_dict`` leaves out the tensors."""

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
    a: Subject,
    b: Subject,
    rows: Rows,
    *,
    tokens: int | None = None,
    min_tokens: int = 20,
    baseline: bool = True,
    seed: int = 0,
    skip_positions: int = 1,
    contexts: int = 16,
    memory: int = 1 << 30,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Universality:
    """Compare two dictionaries on the same tokens; their models' neurons too, if the models differ.

    Args:
        a, b: subjects (``load_subject``): of two models, or two dictionaries of one. The models share a tokenizer.
        tokens: read about so many, in evenly spaced rows (default: all).
        min_tokens: features of fewer active tokens are not compared: a correlation over so few tokens is noise.
        baseline: also match with random directions in B: as many, as many of them active on a token as B's features.
        memory: bytes of sums held at a time by each comparison; beyond it codes go to ``folder`` (``CrossProducts``).

    Raises:
        ValueError: the models do not share their tokenizer or predict no next token, or a dictionary does not fit its
            hook.
    """
    for subject in (a, b):
        check_suits(subject.model, "compare: pairs of features are compared by logit weights too", predicts=True)
    check_tokenizers(a.model, b.model, rows)
    same = a.model.name == b.model.name and a.hook_name == b.hook_name
    used = used_vocabulary(torch.as_tensor(rows.tokens, device="cpu"), a.model.d_vocab)
    logits = [LogitTable(s.sae, s.model, s.hook_name, used, memory) for s in (a, b)]
    select = spread(rows, tokens)
    read = [
        blocks(
            s.sae,
            s.model,
            s.hook_name,
            rows,
            select=select,
            contexts=contexts,
            skip_positions=skip_positions,
            progress="comparing" if progress and s is b else None,
            limit=shared_limit([a.sae, b.sae]),
        )
        for s in (a, b)
    ]
    ours, theirs = (SourceMoments(s.sae.cfg.d_sae, rows.sources) for s in (a, b))
    groups = group_sources(rows.sources)
    labels = [LabelMoments(s.sae.cfg.d_sae, s.model, rows, groups) for s in (a, b)]
    pairs: dict[str, MatchSums] = {}
    try:
        for block_a, block_b in zip(*read, strict=True):
            n = len(block_a.x)
            for block, of_sources, of_labels in zip((block_a, block_b), (ours, theirs), labels, strict=True):
                of_sources.update(block)
                of_labels.update(block)
            if not pairs:
                pairs = _pairs(a, b, block_b, same, baseline, memory, folder, seed)
            code_a, code_b = (_with_attributions(x, t) for x, t in zip((block_a, block_b), logits, strict=True))
            pairs["features"].update(code_a, code_b, n)
            for name, x in (("neurons", block_a.x), ("random directions", None)):
                if name in pairs:
                    first = _encoded(pairs[name].a, x) if x is not None else _first(code_a)
                    pairs[name].update(first, _encoded(pairs[name].b, block_b.x), n)
        comparisons = tuple(
            pair.finish(min_tokens, logits if name == "features" else None, f"matching {name}" if progress else None)
            for name, pair in pairs.items()
        )
    finally:
        for pair in pairs.values():
            pair.products.close()
    matches = comparisons[0].matches
    return Universality(
        tokens=int(ours.tokens.sum()),
        least=min_tokens,
        same_model=same,
        comparisons=comparisons,
        labels=_labels(ours, theirs, matches, *labels),
        logits_median=float(matches.logits.nanmedian()),
        attribution_median=float(matches.attribution.nanmedian()),
        points=_points(matches),
        examples=_examples(matches, a.model, logits),
        sources=tuple(sources_read(rows)),
    )


def check_tokenizers(a: LanguageModel, b: LanguageModel, rows: Rows) -> None:
    """Raise ValueError unless both models read text as the same tokens."""
    probe = a.decode([t for t in torch.as_tensor(rows.tokens[0], device="cpu").tolist() if t != a.bos_id])
    if (a.d_vocab, a.bos_id) != (b.d_vocab, b.bos_id) or a.encode(probe) != b.encode(probe):
        raise ValueError(
            f"models: {a.name!r} and {b.name!r} do not share a tokenizer; wanted two models that read text as the same "
            "tokens, so that activations can be compared token by token"
        )


def _pairs(
    a: Subject, b: Subject, block: Block, same: bool, baseline: bool, memory: int, folder: str | Path | None, seed: int
) -> dict[str, MatchSums]:
    out = {"features": MatchSums("features", a.sae, b.sae, ("A", "B"), 2, memory, folder)}
    if not same:
        neurons = [NeuronBasis(s.model.width(s.hook_name), s.sae.W_dec.device) for s in (a, b)]
        sides = ("A's neurons", "B's neurons")
        out["neurons"] = MatchSums("neurons", neurons[0], neurons[1], sides, 1, memory, folder)
    if baseline:
        k = max(1, min(b.sae.cfg.d_sae, round(len(block.values) / len(block.x))))
        # Not the seed of a dictionary: it would be compared with its own initial weights.
        random = TopKSAE(b.sae.cfg.d_in, b.sae.cfg.d_sae, k=k, seed=seed + 1_000_003).to(b.sae.W_dec.device)
        # The b_dec of a transcoder is of what it writes: the middle of what it reads is that of the first block.
        random.b_dec.copy_(block.x.mean(0) if isinstance(b.model, Joined) else b.sae.b_dec)
        sides = ("A", "random directions in B")
        out["random directions"] = MatchSums("random directions", a.sae, random, sides, 1, memory, folder)
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


def _encoded(sae: Dictionary, x: Tensor) -> Entries:
    values, features, at = entries(sae.encode(x))
    return Entries(features, at, values[None])


def _labels(
    a: SourceMoments, b: SourceMoments, matches: Matches, labels_a: LabelMoments, labels_b: LabelMoments
) -> tuple[LabelPair, ...]:
    at = {f: i for i, f in enumerate(matches.feature.tolist())}
    out = []
    theirs = labels_b.features(b)
    for label, feature in labels_a.features(a).items():
        if feature in at and label in theirs:
            i, members = at[feature], labels_a.groups[label]
            out.append(
                LabelPair(
                    label=label,
                    a=feature,
                    b=int(matches.match[i]),
                    r=float(matches.r[i]),
                    attribution=float(matches.attribution[i]),
                    logits=float(matches.logits[i]),
                    b_of_label=theirs[label],
                    label_a=a.describe(label, members, feature).correlation,
                    label_b=b.describe(label, members, theirs[label]).correlation,
                )
            )
    return tuple(out)


def _points(matches: Matches, limit: int = 1500) -> dict[str, Any]:
    """A fair sample of the pairs for the scatter plots."""
    step = max(1, -(-len(matches.r) // limit))
    columns = {"feature": matches.feature, "match": matches.match, "tokens": matches.tokens}
    rounded = {"r": matches.r, "attribution": matches.attribution, "logits": matches.logits}
    return {k: v[::step].tolist() for k, v in columns.items()} | {
        k: [round(x, 4) for x in v[::step].tolist()] for k, v in rounded.items()
    }


def _examples(
    matches: Matches, model: LanguageModel, logits: Sequence[LogitTable], count: int = 12
) -> tuple[dict[str, Any], ...]:
    """Pairs at evenly spaced ranks of r, with the tokens that each side raises most."""
    order = torch.argsort(matches.r, descending=True)
    count = min(count, len(order))
    out = []
    for n in range(count):
        i = int(order[(2 * n + 1) * len(order) // (2 * count)])
        raised = [
            [model.token_str(token) for token, _ in table.top(int(f[i]), 6)]
            for table, f in zip(logits, (matches.feature, matches.match), strict=True)
        ]
        out.append(
            {
                "a": int(matches.feature[i]),
                "b": int(matches.match[i]),
                "r": float(matches.r[i]),
                "logits": float(matches.logits[i]),
                "raised_a": raised[0],
                "raised_b": raised[1],
            }
        )
    return tuple(out)
