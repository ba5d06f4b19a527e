"""Ablation of a feature while the model reads: what its text loses, and what other text does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.evidence.statistics import mean_interval
from monosem.analysis.index.protocol import FeatureIndex
from monosem.analysis.inputs import Subject
from monosem.analysis.joined import by_hook, read_and_target
from monosem.analysis.steering import Edit, Steering, log_likelihood_change
from monosem.analysis.windows import is_right_to_left, show
from monosem.data.counted import TokenFilter, counted, skipped_ids
from monosem.data.protocols import LanguageModel


@dataclass(frozen=True)
class Effect:
    """Mean change of log P(next token), in nats, when the feature is ablated on every token.

    ``label``: on the predicted tokens of the label; ``other``: on those of other kinds of text in as many contexts;
    ``active``: on the tokens predicted where the feature was active. ``tokens_*``: how many there were. ``*_interval``:
    2.5 % to 97.5 % of the means of resampled contexts (None where no context has such a token).
    """

    label: float
    other: float
    active: float
    tokens_label: int
    tokens_other: int
    tokens_active: int
    label_interval: tuple[float, float] | None
    other_interval: tuple[float, float] | None
    active_interval: tuple[float, float] | None


@torch.no_grad()
def ablation(
    subject: Subject,
    index: FeatureIndex,
    feature: int,
    members: Sequence[int],
    contexts: int,
    error: str = "keep",
    skip_positions: int = 1,
    batch: int = 16,
) -> tuple[Effect, dict[str, Any]]:
    """What ablating a feature does to the log-likelihood of text: means, and one passage token by token."""
    tokens, source = np.asarray(index.rows.tokens), np.asarray(index.rows.source)
    inside = np.isin(source, list(members))
    per_row = inside.mean(1)
    richest = np.argsort(-per_row, kind="stable")[:contexts]
    none = np.flatnonzero(per_row == 0)
    none = none[(2 * np.arange(min(contexts, len(none))) + 1) * len(none) // (2 * max(1, min(contexts, len(none))))]
    chosen = np.concatenate([richest, none])
    steering = Steering(subject.sae, [Edit(feature, "ablate")], error=error, skip_positions=skip_positions)
    left_out, parts = skipped_ids(subject.model), []
    counts = TokenFilter(skip_positions, left_out, steering.limit)  # by the norm: as tokens are that it leaves alone
    for start in range(0, len(chosen), batch):
        ids = torch.from_numpy(tokens[chosen[start : start + batch]].astype(np.int64))
        x, y = read_and_target(subject.model, ids, subject.hook_name)
        at = steering.activations(x.flatten(0, 1).to(subject.sae.W_dec)).view(ids.shape).cpu()
        at[~counts.by_norm(counts.by_token(ids.numpy()), by_hook(subject.model, x, y))] = 0
        parts.append((at, log_likelihood_change(subject.model, subject.hook_name, ids, steering).cpu()))
    at, change = (torch.cat(column) for column in zip(*parts, strict=True))
    of_label = torch.from_numpy(inside[chosen][:, 1:])
    scored = torch.from_numpy(counted(tokens[chosen][:, 1:], 0, left_out))  # the tokens that are predicted
    if skip_positions:
        scored[:, :skip_positions] = False  # predicted from a position that is left alone
    fired = at[:, :-1] > 0

    figures: dict[str, Any] = {}
    for name, mask in (("label", of_label), ("other", ~of_label), ("active", fired)):
        counts = (mask & scored).sum(1)
        mean = mean_interval((change.double() * (mask & scored)).sum(1).numpy(), counts.numpy())
        figures[name] = mean.mean if mean else 0.0
        figures[f"{name}_interval"] = (mean.low, mean.high) if mean else None
        figures[f"tokens_{name}"] = int(counts.sum())
    return Effect(**figures), _passage(subject.model, tokens[chosen], at, change)


def _passage(model: LanguageModel, tokens: np.ndarray, at: Tensor, change: Tensor, length: int = 90) -> dict[str, Any]:
    """The stretch of a context where the ablation changes most: pieces of text with activation and change."""
    total = change.clamp_max(0).unfold(1, min(length, change.shape[1]), 1).sum(-1)
    row, start = divmod(int(total.argmin()), total.shape[1])
    ids = tokens[row, start : start + length + 1].tolist()
    fired = at[row, start : start + len(ids)].tolist()
    moved = [0.0, *change[row, start : start + len(ids) - 1].tolist()]
    pieces, i = [], 0
    for piece in show(model, ids, fired, 0):
        n = len(piece.tokens)
        pieces.append({"text": piece.text, "value": piece.value, "change": sum(moved[i : i + n])})
        i += n
    return {"pieces": pieces, "right_to_left": is_right_to_left("".join(p["text"] for p in pieces))}
