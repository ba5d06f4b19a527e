"""Judges of generated text: which share of its tokens is of a label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.scan import Rows, spread
from monosem.data.protocols import LanguageModel

Judge = Callable[[Sequence[int]], float]  # token ids → the share of them that is of the label


def proxy_judges(
    model: LanguageModel, rows: Rows, groups: Mapping[str, Sequence[int]], tokens: int = 200_000
) -> dict[str, Judge]:
    """Judges by log-likelihood ratios: the share of tokens whose score is above a threshold.

    The ratio is that of the label's proxy; of a label without one, that of its tokens' frequencies (``Frequencies``).

    The threshold is the one that best tells the label's tokens from all others in the text (largest true positive rate
    minus false positive rate). 0 would do for a script; a run of digits or a word scores above 0 for base64 too (the
    paper calls that proxy too broad), but no run of it is as long as one of base64.
    """
    from monosem.analysis.evidence.proxies import Frequencies, ProxySet

    select = spread(rows, tokens)
    ids, source = np.asarray(rows.tokens)[select], np.asarray(rows.source)[select]
    of_label = {label: np.isin(source, list(members)) for label, members in groups.items()}
    of_label = {label: mine for label, mine in of_label.items() if mine.any()}
    ready = ProxySet(model, rows, max_tokens=tokens)
    others = [Frequencies(label, ids[mine]) for label, mine in of_label.items() if label not in ready.names]
    sets = [ready, ProxySet(model, rows, [], extra=others, max_tokens=tokens)]

    def judge(proxies: ProxySet, number: int, threshold: float) -> Judge:
        def share(ids: Sequence[int]) -> float:
            return float((proxies.scores(np.asarray([ids]))[number] > threshold).double().mean()) if len(ids) else 0.0

        return share

    out = {}
    for proxies in sets:
        wanted = [label for label in proxies.names if label in of_label]
        scores = proxies.scores(ids) if wanted else ()
        for number, label in ((proxies.names.index(label), label) for label in wanted):
            mine = torch.from_numpy(of_label[label])
            out[label] = judge(proxies, number, separating(scores[number][mine], scores[number][~mine]))
    return {label: out[label] for label in of_label}


def separating(inside: Tensor, outside: Tensor) -> float:
    """The threshold t ≥ 0 with the largest P(inside > t) − P(outside > t); of equals the smallest."""
    candidates = torch.cat(
        [torch.zeros(1, dtype=torch.float32, device="cpu").double(), inside[inside > 0].double()]
    ).unique()
    candidates = candidates[
        torch.linspace(0, len(candidates) - 1, min(1000, len(candidates)), dtype=torch.float32, device="cpu").long()
    ]

    def above(scores: Tensor) -> Tensor:
        ordered = scores.double().flatten().sort().values
        return 1 - torch.searchsorted(ordered, candidates, right=True) / max(1, len(ordered))

    return float(candidates[(above(inside) - above(outside)).argmax()])
