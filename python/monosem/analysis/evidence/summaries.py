"""Summaries of a few features: the tokens they fire on, their top activations in context, their positive logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from monosem.analysis.index.example import Example
from monosem.analysis.inputs import Subject
from monosem.analysis.logit_table import LogitTable
from monosem.analysis.scan import Rows, blocks
from monosem.analysis.windows import windows


def summaries(
    subject: Subject,
    rows: Rows,
    features: Sequence[int],
    logits: LogitTable,
    select: np.ndarray,
    *,
    words: int = 6,
    examples: int = 3,
    skip_positions: int = 1,
) -> dict[int, dict[str, Any]]:
    """{feature: ``words`` (token, count) it fires on, ``raised`` (token, weight), ``examples`` in context}.

    Args:
        select: the rows that are read for it.
    """
    slot = torch.full((subject.sae.cfg.d_sae,), -1, dtype=torch.int64, device="cpu")
    slot[torch.tensor(list(features), dtype=torch.int64, device="cpu")] = torch.arange(len(features), device="cpu")
    counts: list[Counter[int]] = [Counter() for _ in features]
    best: list[dict[int, Example]] = [{} for _ in features]
    for block in blocks(
        subject.sae, subject.model, subject.hook_name, rows, select=select, skip_positions=skip_positions
    ):
        mine = slot[block.features] >= 0
        length = block.tokens.shape[1]
        places = block.places[mine]
        ids = torch.as_tensor(np.asarray(rows.tokens), device="cpu").view(-1)[places]
        columns = slot[block.features[mine]].tolist(), ids.tolist(), places.tolist(), block.values[mine].tolist()
        for i, token, place, value in zip(*columns, strict=True):
            counts[i][token] += 1
            row, position = divmod(place, length)
            if row not in best[i] or best[i][row].value < value:
                best[i][row] = Example(row, position, value)
    chosen = [sorted(b.values(), key=lambda e: (-e.value, e.row))[:examples] for b in best]
    pairs = [(f, e) for f, own in zip(features, chosen, strict=True) for e in own]
    shown = iter(
        windows(
            subject.sae,
            subject.model,
            subject.hook_name,
            rows,
            pairs,
            before=14,
            after=8,
            characters=(40, 24),
            skip_positions=skip_positions,
        )
    )
    out = {}
    for i, feature in enumerate(features):
        texts = []
        for _ in chosen[i]:
            w = next(shown)
            pieces = [{"text": p.text, "value": p.value, "focus": p.focus} for p in w.pieces]
            texts.append({"source": w.source, "right_to_left": w.right_to_left, "pieces": pieces})
        out[feature] = {
            "words": [(subject.model.token_str(t), n) for t, n in counts[i].most_common(words)],
            "raised": [(subject.model.token_str(t), v) for t, v in logits.top(feature, words)],
            "examples": texts,
        }
    return out
