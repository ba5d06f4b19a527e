"""Features and kinds of text: correlation of activations with the source label of each token.

The label is what the document was collected as, so it checks a feature without any rule about characters
(Towards Monosemanticity, "Activation Sensitivity", correlates with such a rule instead).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.scan import Block, Rows
from monosem.data.nearest import did_you_mean
from monosem.distributed.peers import Peers
from monosem.ops.memory import available_memory, human_bytes

_SAID = 12  # labels that an error names
SHOWN = 16  # most labels of a table

# The labels of the paper, by how the names of their sources begin.
LABELS: dict[str, tuple[str, ...]] = {
    "Arabic": ("ar_",),
    "Hebrew": ("he_",),
    "DNA": ("dna",),
    "base64": ("base64",),
}


def check_sources(needed: int, sources: int, what: str) -> None:
    """Raise before an array with a column for each source is made, if it cannot be.

    Raises:
        ValueError: says how much memory is needed and how much there is.
    """
    there = available_memory()
    if needed > there:
        raise ValueError(
            f"source: got {sources:,} different names, and {what} need {human_bytes(needed)} of memory; this machine "
            f"has {human_bytes(there)} left. "
            "Wanted fewer names: label documents by their collection, not each by its own."
        )


def paper_groups(sources: Sequence[str]) -> dict[str, list[int]]:
    """The sources of each of the paper's labels that the text has: {label: [index of source, ...]}.

    A name bears the label where its first word does: ``dna`` and ``dna_fasta``, but not ``dnatools``.
    """

    def bears(name: str, prefix: str) -> bool:
        return name == prefix or name.startswith(prefix if prefix.endswith("_") else f"{prefix}_")

    groups = {
        label: [i for i, name in enumerate(sources) if any(bears(name, p) for p in prefixes)]
        for label, prefixes in LABELS.items()
    }
    return {label: members for label, members in groups.items() if members}


def all_groups(sources: Sequence[str]) -> dict[str, list[int]]:
    """Every label of a text: the paper's, where the text has them, then each source by its own name."""
    groups = paper_groups(sources)
    taken = {label.lower() for label in groups}
    return groups | {name: [i] for i, name in enumerate(sources) if name.lower() not in taken}


def group_sources(sources: Sequence[str], labels: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[int]]:
    """The labels that are shown by default, with their sources: {label: [index of source, ...]}.

    Args:
        labels: {label: prefixes of names}; default the paper's labels, and in a text that has none of them each source.
            A label that no source has is left out.
    """
    if labels is None:
        return paper_groups(sources) or all_groups(sources)
    groups = {
        label: [i for i, name in enumerate(sources) if name.startswith(tuple(prefixes))]
        for label, prefixes in labels.items()
    }
    return {label: members for label, members in groups.items() if members}


def named(label: str, groups: Mapping[str, Sequence[int]], what: str = "label") -> str:
    """The label as the text spells it, whatever the case in which it was typed.

    Raises:
        ValueError: the text has no such label.
    """
    if label in groups:
        return label
    alike = [known for known in groups if known.lower() == label.lower()]
    if len(alike) == 1:
        return alike[0]
    known = ", ".join(list(groups)[:_SAID]) + (f" and {len(groups) - _SAID:,} more" if len(groups) > _SAID else "")
    raise ValueError(
        f"{what}: no text for {label!r}; this text has {known}. Each source of the text is a label."
        + did_you_mean(label, groups)
    )


def sources_read(rows: Rows) -> list[str]:
    """The names of the sources that some token of the text bears, in the text's order."""
    counts = np.zeros(len(rows.sources), dtype=np.int64)
    source = np.asarray(rows.source)
    for start in range(0, len(source), 4096):
        counts += np.bincount(source[start : start + 4096].reshape(-1).astype(np.int64), minlength=len(counts))
    return [name for name, count in zip(rows.sources, counts.tolist(), strict=True) if count]


@dataclass(frozen=True)
class LabelFeature:
    """The feature that correlates best with a label.

    ``correlation`` is Pearson's, over all scored tokens, of the activation with the indicator of the label.
    ``precision`` is the share of the feature's active tokens that bear the label, ``mass`` the share of its summed
    activation, ``recall`` the share of the label's tokens on which it is active, ``base_rate`` the label's share of
    all tokens.
    """

    label: str
    feature: int
    correlation: float
    precision: float
    mass: float
    recall: float
    base_rate: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class SourceMoments:
    """Streaming sums over tokens: Σf, Σf², Σf·1[source], Σ1[f > 0]·1[source]; F × sources of float64, whatever N."""

    def __init__(self, d_sae: int, sources: Sequence[str]) -> None:
        self.sources = list(sources)
        shape = (d_sae, len(self.sources))
        check_sources(16 * shape[0] * shape[1], shape[1], f"the sums of each over {d_sae:,} features")
        self.square = torch.zeros(d_sae, dtype=torch.float64, device="cpu")
        self.mass = torch.zeros(shape, dtype=torch.float64, device="cpu")  # Σ f·1[source]
        self.active = torch.zeros(shape, dtype=torch.float64, device="cpu")  # Σ 1[f > 0]·1[source]
        self.tokens = torch.zeros(shape[1], dtype=torch.float64, device="cpu")

    def update(self, block: Block) -> None:
        values = block.values.double()
        cell = block.features * len(self.sources) + block.source[block.at]
        self.square.index_add_(0, block.features, values.square())
        self.mass.view(-1).index_add_(0, cell, values)
        self.active.view(-1).index_add_(0, cell, torch.ones_like(values))
        self.tokens += torch.bincount(block.source, minlength=len(self.sources))

    def add_over(self, peers: Peers) -> None:
        """Make these the sums over the tokens of all processes, of which each has read some."""
        for sums in (self.square, self.mass, self.active, self.tokens):
            peers.add_(sums)

    @property
    def counts(self) -> Tensor:
        """Tokens on which each feature is active, float64 [F]."""
        return self.active.sum(1)

    def correlations(self, groups: Mapping[str, Sequence[int]]) -> Tensor:
        """Pearson's r of every feature with every label: float64 [F, labels]; 0 where either never varies.

        r = (E[f·y] − E[f]·E[y]) / √(Var f · Var y), y = 1 on the tokens of the label.
        """
        n = self.tokens.sum()
        mean = self.mass.sum(1) / n
        variance = (self.square / n - mean.square()).clamp_min(0)
        columns = []
        for members in groups.values():
            share = self.tokens[list(members)].sum() / n
            covariance = self.mass[:, list(members)].sum(1) / n - mean * share
            scale = (variance * share * (1 - share)).sqrt()
            columns.append(torch.where(scale > 0, covariance / scale, torch.zeros_like(scale)))
        return torch.stack(columns, 1) if columns else torch.zeros(len(mean), 0, dtype=torch.float64, device="cpu")

    def feature_correlations(self, feature: int, groups: Mapping[str, Sequence[int]]) -> list[float]:
        """Pearson's r of one feature with every label."""
        one = SourceMoments(1, self.sources)
        one.square, one.mass, one.tokens = self.square[feature, None], self.mass[feature, None], self.tokens
        return one.correlations(groups)[0].tolist()

    def describe(self, label: str, members: Sequence[int], feature: int) -> LabelFeature:
        """The figures of one feature against one label."""
        members = list(members)
        hits = self.active[feature, members].sum()
        r = self.feature_correlations(feature, {label: members})[0]
        return LabelFeature(
            label=label,
            feature=feature,
            correlation=r,
            precision=float(hits / self.active[feature].sum().clamp_min(1)),
            mass=float(self.mass[feature, members].sum() / self.mass[feature].sum().clamp_min(1e-300)),
            recall=float(hits / self.tokens[members].sum().clamp_min(1)),
            base_rate=float(self.tokens[members].sum() / self.tokens.sum()),
        )

    def telling(self, groups: Mapping[str, Sequence[int]], limit: int = SHOWN) -> dict[str, list[int]]:
        """The labels that some tokens bear and others do not: at most ``limit``, those with most tokens, in order."""
        n = {label: float(self.tokens[list(members)].sum()) for label, members in groups.items()}
        present = [label for label in groups if 0 < n[label] < float(self.tokens.sum())]
        kept = set(sorted(present, key=lambda label: -n[label])[:limit])
        return {label: list(groups[label]) for label in present if label in kept}

    def best(self, groups: Mapping[str, Sequence[int]]) -> tuple[LabelFeature, ...]:
        """For each label of :meth:`telling`, the feature that correlates best; none where no feature follows it."""
        present = self.telling(groups)
        if not present or not len(self.square):
            return ()
        r, winners = self.correlations(present).max(0)
        return tuple(
            self.describe(label, members, feature)
            for (label, members), feature, highest in zip(present.items(), winners.tolist(), r.tolist(), strict=True)
            if highest > 0
        )
