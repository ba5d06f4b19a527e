"""The feature that stands for a label of the text: the same one in every line of evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from monosem.analysis.evidence.proxies.builtin import ProxySet, builtin
from monosem.analysis.evidence.proxies.moments import ProxyMoments
from monosem.analysis.inputs import Subject
from monosem.analysis.scan import Block, Rows, blocks, spread
from monosem.analysis.sources import SourceMoments
from monosem.data.protocols import LanguageModel


class LabelMoments:
    """Sums over one pass, from which the feature of each label is chosen.

    A label that has a built-in proxy (Arabic, Hebrew, DNA, base64) is represented by the feature whose activation has
    the largest Pearson correlation with that proxy, as in ``proxies.measure``; any other by the one that correlates
    best with the label of the documents. (The proxy is the narrower: documents of a language hold other text too.)

    Args:
        rows: the text, on which the proxies are fitted.
        groups: {label: numbers of the sources that bear it}.
    """

    def __init__(self, d_sae: int, model: LanguageModel, rows: Rows, groups: Mapping[str, Sequence[int]]) -> None:
        self.groups = {label: list(members) for label, members in groups.items()}
        ready = [p for p in builtin() if p.name in self.groups]
        self.proxies = ProxySet(model, rows, ready) if ready else None
        self._sums = ProxyMoments(d_sae, len(self.proxies.names) if self.proxies else 0)

    def update(self, block: Block) -> None:
        if self.proxies:
            scores = self.proxies.scores(block.tokens).flatten(1)[:, block.where]
            self._sums.update(block.values, block.features, block.at, self.proxies.levels(scores), scores > 0)

    def features(self, moments: SourceMoments) -> dict[str, int]:
        """{label: its feature}, in the order of ``groups``; without the labels that no feature follows.

        Args:
            moments: of the same dictionary, for the labels without a proxy.
        """
        found = {best.label: best.feature for best in moments.best(self.groups)}
        if self.proxies:
            best = self._sums.correlations().max(1)
            by_proxy = zip(self.proxies.names, best.values.tolist(), best.indices.tolist(), strict=True)
            found |= {label: feature for label, correlation, feature in by_proxy if correlation > 0 and label in found}
        return {label: found[label] for label in self.groups if label in found}


@torch.no_grad()
def label_features(
    subject: Subject,
    rows: Rows,
    groups: Mapping[str, Sequence[int]],
    moments: SourceMoments,
    *,
    tokens: int | None = None,
    skip_positions: int = 1,
    progress: bool = False,
) -> dict[str, int]:
    """:meth:`LabelMoments.features` of a text, in one pass over about ``tokens`` of it where a label has a proxy.

    Args:
        moments: of the dictionary on this text (``index.moments``).
    """
    chosen = LabelMoments(subject.sae.cfg.d_sae, subject.model, rows, groups)
    if chosen.proxies:
        reading = blocks(
            subject.sae,
            subject.model,
            subject.hook_name,
            rows,
            select=spread(rows, tokens),
            skip_positions=skip_positions,
            progress="labels" if progress else None,
        )
        for block in reading:
            chosen.update(block)
    return chosen.features(moments)
