"""Selection of the features that are shown first: best of each kind of text, spread over densities, random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.analysis.index import Index
from monosem.analysis.logits import LogitWeights
from monosem.analysis.sources import SourceMoments


@dataclass(frozen=True)
class Group:
    """Features shown together, and how they were chosen."""

    title: str
    note: str
    features: tuple[int, ...]


class _Picker:
    """Picks features, none twice."""

    def __init__(self, kind: Tensor) -> None:
        self.kind, self.seen = kind.tolist(), set()

    def take(self, ranked: Tensor, count: int, per_kind: int | None = None) -> tuple[int, ...]:
        """The first ``count`` of ``ranked`` not picked before, at most ``per_kind`` of one kind."""
        out: list[int] = []
        kinds: Counter[int] = Counter()
        for feature in ranked.tolist():
            kind = self.kind[feature]
            if len(out) < count and feature not in self.seen and (per_kind is None or kinds[kind] < per_kind):
                out.append(feature)
                self.seen.add(feature)
                kinds[kind] += 1
        return tuple(out)


def choose(
    index: Index,
    logits: LogitWeights,
    labels: Mapping[str, Sequence[int]],
    *,
    per_label: int = 3,
    sources: int = 16,
    per_band: int = 3,
    sharp: int = 12,
    random: int = 12,
    min_tokens: int = 20,
    seed: int = 0,
) -> list[Group]:
    """Choose features by rules that the page states; none appears twice.

    Args:
        labels: {label: sources}; ``per_label`` features of each, by correlation.
        sources: for at most this many further sources, the one feature that correlates best.
        per_band: features of each half decade of density, those whose logit weights are most skewed, each with
            another main source.
        sharp: further features with the most skewed logit weights of all, at most two of one main source.
        random: further features drawn blindly among all that fire.
        min_tokens: a feature that fires on fewer tokens is shown only for a label or by the blind draw.
    """
    moments = index.moments
    picker = _Picker(moments.active.argmax(1))
    often = index.counts >= min_tokens
    groups = []
    for label, members in labels.items():
        r = moments.correlations({label: members})[:, 0]
        best = _descending(r)
        note = f"The features whose activation correlates best with the label {label}."
        groups.append(Group(label, note, picker.take(best[r[best] > 0], per_label)))

    note = "For each further source the feature that correlates best with it."
    groups.append(Group("Other kinds of text", note, picker.take(_best_of_sources(moments, labels, often), sources)))

    skewness = torch.where(often, logits.skewness, -torch.inf)
    band = (2 * index.density.clamp_min(1e-30).log10()).floor().long()
    walk: list[int] = []
    for b in sorted(set(band[often].tolist()), reverse=True):
        ranked = _descending(torch.where(band == b, skewness, -torch.inf))
        walk += picker.take(ranked[(band == b)[ranked] & often[ranked]], per_band, per_kind=1)
    note = "Of every half decade of density, features with lopsided logit weights, each most active on another source."
    groups.append(Group("From common to rare", note, tuple(walk)))

    ranked = _descending(skewness)
    note = "The most lopsided logit weights of all that are left, at most two features of one source."
    groups.append(Group("Sharpest predictions", note, picker.take(ranked[often[ranked]], sharp, per_kind=2)))

    alive = (index.counts > 0).nonzero().flatten()
    draw = alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed), device="cpu")]
    note = "A fair sample of the features that fire and are not shown above, so that the choice flatters no one."
    groups.append(Group("Drawn blindly", note, picker.take(draw, random)))
    return [group for group in groups if group.features]


def _best_of_sources(moments: SourceMoments, labels: Mapping[str, Sequence[int]], often: Tensor) -> Tensor:
    """For each source without a label the feature with the largest correlation, if that is above 0.1; best first."""
    labelled = {i for members in labels.values() for i in members}
    others = {n: [i] for i, n in enumerate(moments.sources) if i not in labelled and moments.tokens[i] > 0}
    if not others:
        return torch.zeros(0, dtype=torch.int64, device="cpu")
    r, feature = torch.where(often[:, None], moments.correlations(others), -1.0).max(0)
    order = _descending(r)
    return feature[order][r[order] > 0.1]


def _descending(values: Tensor) -> Tensor:
    return torch.argsort(values, descending=True, stable=True)
