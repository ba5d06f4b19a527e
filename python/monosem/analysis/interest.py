"""Which features to show first: the clearest of each kind of text, a walk over the densities, and a fair draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.analysis.index import FeatureIndex
from monosem.analysis.logits import LogitWeights
from monosem.analysis.sources import SourceMoments


@dataclass(frozen=True)
class Group:
    """Features shown together, and how they were chosen."""

    title: str
    note: str
    features: tuple[int, ...]


def choose(
    index: FeatureIndex,
    moments: SourceMoments,
    logits: LogitWeights,
    labels: Mapping[str, Sequence[int]],
    *,
    per_label: int = 3,
    sources: int = 16,
    per_band: int = 3,
    sharp: int = 12,
    random: int = 12,
    least: int = 20,
    seed: int = 0,
) -> list[Group]:
    """Choose features by rules that are told to the reader; none appears twice.

    Args:
        labels: {label: sources}; ``per_label`` features of each, by correlation.
        sources: for at most this many further sources, the one feature that correlates best.
        per_band: features of each half decade of density, those whose logit weights are most skewed.
        sharp: further features with the most skewed logit weights of all.
        random: further features drawn blindly among all that fire.
        least: a feature that fires on fewer tokens is shown only for a label or by the blind draw.
    """
    seen: set[int] = set()

    def take(ranked: Tensor, count: int) -> list[int]:
        out = [f for f in ranked.tolist() if f not in seen][:count]
        seen.update(out)
        return out

    often = index.counts >= least
    skewness = torch.where(often, logits.skewness, -torch.inf)
    groups = []

    def add(title: str, note: str, features: list[int]) -> None:
        if features:
            groups.append(Group(title, note, tuple(features)))

    for label, members in labels.items():
        r = moments.correlations({label: members})[:, 0]
        best = torch.argsort(r, descending=True, stable=True)
        add(
            label,
            f"The features whose activation correlates best with the label {label}.",
            take(best[r[best] > 0], per_label),
        )

    grouped = {i for members in labels.values() for i in members}
    single = {name: [i] for i, name in enumerate(moments.sources) if i not in grouped and moments.tokens[i] > 0}
    r = torch.where(often[:, None], moments.correlations(single), -1.0)
    winners = r.max(0) if r.numel() else None
    if winners is not None:
        ranked = winners.indices[torch.argsort(winners.values, descending=True, stable=True)]
        clear = ranked[r[ranked].max(1).values > 0.1]
        add(
            "Other kinds of text",
            "For each further source the feature that correlates best with it.",
            take(clear, sources),
        )

    band = (2 * index.density.clamp_min(1e-30).log10()).floor().long()
    walk: list[int] = []
    for b in sorted(set(band[often].tolist()), reverse=True):
        ranked = torch.argsort(torch.where(band == b, skewness, -torch.inf), descending=True, stable=True)
        ranked = ranked[(band == b)[ranked] & often[ranked]]
        walk += take(ranked, per_band)
    add(
        "From common to rare",
        "Of every half decade of density, the features with the most lopsided logit weights.",
        walk,
    )

    ranked = torch.argsort(skewness, descending=True, stable=True)
    add(
        "Sharpest predictions",
        "The most lopsided logit weights of all that are left.",
        take(ranked[often[ranked]], sharp),
    )

    alive = (index.counts > 0).nonzero().flatten()
    draw = alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))]
    add(
        "Drawn blindly",
        "A fair sample of every feature that fires, so that the choice above flatters no one.",
        take(draw, random),
    )
    return groups
