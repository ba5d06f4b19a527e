"""The next tokens that a feature makes likelier: logit weights by path expansion (paper, "Logit Weights")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.unit_rows import in_unit_rows
from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary
from monosem.ops.precision import as_given


@dataclass(frozen=True)
class LogitWeights:
    """The extreme logit weights of each feature: ids and values [F, count], and the shape of the distribution.

    A feature's weights are shifted so that their median is 0 (the softmax does not see a common shift).
    ``skewness`` [F] is E[w³] / E[w²]^1.5 about that median: large where a few tokens stand out on the right.
    ``spread`` [F] is the median of |w|, a robust width of the distribution around 0.
    """

    top_ids: Tensor
    top_values: Tensor
    bottom_ids: Tensor
    bottom_values: Tensor
    skewness: Tensor
    spread: Tensor


def used_vocabulary(tokens: Tensor | np.ndarray, d_vocab: int, min_count: int = 3) -> Tensor:
    """Entries seen ``min_count`` times in ``tokens``, or more: bool [d_vocab]. Weights of the others mean nothing."""
    ids = torch.as_tensor(tokens, device="cpu").flatten().long()
    return torch.bincount(ids, minlength=d_vocab)[:d_vocab] >= min_count


@torch.no_grad()
@as_given
def logit_weights(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    used: Tensor,
    count: int = 10,
    block: int = 128,
    features: Tensor | None = None,
) -> LogitWeights:
    """Top and bottom logit weights of features, d_i · (path from the hook to the logits), ``block`` at a time.

    d_i is the direction of the decoder row, of length 1 also where norms are free.

    Args:
        used: bool [d_vocab], the entries that may be shown; the median is theirs.
        count: how many at either end.
        features: of these, in this order (default: of all).

    Raises:
        ValueError: fewer than two entries are used.
    """
    ids = used.nonzero().flatten()
    if len(ids) < 2:
        raise ValueError(f"used: got {len(ids)} entries of the vocabulary; wanted at least 2 (is the text empty?)")
    count = min(count, len(ids))
    directions = model.logit_directions(hook_name).float()[:, ids]
    parts = []
    decoder = in_unit_rows(sae).W_dec.detach()
    decoder = decoder if features is None else decoder[features]
    for rows in decoder.float().split(block):
        w = rows.to(directions.device) @ directions
        w -= w.median(1, keepdim=True).values
        top, bottom = w.topk(count), w.topk(count, largest=False)
        skewness = w.pow(3).mean(1) / w.square().mean(1).pow(1.5).clamp_min(1e-30)
        spread = w.abs().median(1).values
        parts.append((ids[top.indices], top.values, ids[bottom.indices], bottom.values, skewness, spread))
    return LogitWeights(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))
