"""The table behind the browser: logit weights, neighbours, neurons and sources of every feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monosem.analysis.index import Index
from monosem.analysis.inputs import Subject
from monosem.analysis.logits import LogitWeights, logit_weights, used_vocabulary
from monosem.analysis.nearest import nearest
from monosem.data.protocols import predicts_next


@dataclass(frozen=True)
class FeatureTable:
    """Figures of all F features that the index does not hold.

    Attributes:
        logits: the extreme logit weights; None of a model without a next token.
        neighbours, cosines: of those that fire, the features whose decoder directions are nearest, nearest first,
            [F, count]; −1 and 0 for a feature that does not fire itself.
        neurons, correlations: the components of the activation that correlate best, [F, count]; None where the index
            has no sums for them.
        source_r: Pearson's r with every source, float32 [F, sources].
    """

    logits: LogitWeights | None
    neighbours: Tensor
    cosines: Tensor
    neurons: Tensor | None
    correlations: Tensor | None
    source_r: Tensor


def gather(
    subject: Subject, index: Index, *, neighbours: int = 8, neurons: int = 5, progress: bool = True
) -> FeatureTable:
    """Compute the table in blocks: nothing of size F × F or F × vocabulary is held."""
    total = index.d_sae * (2 + index.meta["settings"]["neurons"])
    with tqdm(total=total, unit="feature", desc="comparing features", disable=not progress) as bar:
        logits = _logits(subject, index) if predicts_next(subject.model) else None
        bar.update(index.d_sae)
        near, cosines = _nearest_alive(subject.sae.W_dec, index.counts > 0, neighbours, bar)
        nearest_neurons = _neurons(index, neurons, bar) if index.meta["settings"]["neurons"] else (None, None)
    sources = {name: [i] for i, name in enumerate(index.sources)}
    return FeatureTable(
        logits=logits,
        neighbours=near,
        cosines=cosines,
        neurons=nearest_neurons[0],
        correlations=nearest_neurons[1],
        source_r=index.moments.correlations(sources).float(),
    )


def _logits(subject: Subject, index: Index) -> LogitWeights:
    used = used_vocabulary(np.asarray(index.rows.tokens).astype(np.int64), subject.model.d_vocab)
    return logit_weights(subject.sae, subject.model, subject.hook_name, used)


def _nearest_alive(directions: Tensor, alive: Tensor, count: int, bar: tqdm) -> tuple[Tensor, Tensor]:
    """``nearest`` among the features that fire: the others would cost the square of their number."""
    own = alive.nonzero().flatten()
    ids, values = (
        nearest(directions[own], count, bar)
        if len(own) > 1
        else (torch.zeros(len(own), 0, dtype=torch.float32, device="cpu").long(),) * 2
    )
    near = torch.full((len(alive), ids.shape[1]), -1, dtype=torch.int64, device="cpu")
    cosines = torch.zeros(near.shape, dtype=torch.float32, device="cpu")
    near[own], cosines[own] = own[ids.long()], values.float()
    bar.update(len(alive) - len(own))
    return near, cosines


def _neurons(index: Index, count: int, bar: tqdm, block: int = 2048) -> tuple[Tensor, Tensor]:
    parts = []
    for features in torch.arange(index.d_sae, device="cpu").split(block):
        r = index.neuron_correlations(features)
        parts.append(r.topk(min(count, r.shape[1]), dim=1))
        bar.update(len(features))
    return torch.cat([p.indices for p in parts]), torch.cat([p.values for p in parts]).float()
