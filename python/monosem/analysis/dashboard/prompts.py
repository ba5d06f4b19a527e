"""The features that fire on each token of a prompt."""

from __future__ import annotations

from typing import Any

import torch

from monosem.analysis.dashboard.records import short
from monosem.analysis.inputs import Subject
from monosem.analysis.scan import entries
from monosem.analysis.windows import is_right_to_left, show


@torch.no_grad()
def read_prompt(subject: Subject, text: str, per_token: int = 64) -> dict[str, Any]:
    """A prompt behind a BOS: {"text", "rtl", "pieces": [text, first token, end], "tokens", "on": [[feature, value], …]
    of each token, strongest first}. BOS itself is shown and not encoded, as in the index.

    Args:
        per_token: features kept of each token.

    Raises:
        ValueError: an empty prompt, or one longer than the model's context.
    """
    model = subject.model
    ids = [model.bos_id, *model.encode_batch([text])[0]]
    if not 1 < len(ids) <= model.n_ctx:
        raise ValueError(
            f"prompt: got {len(ids) - 1} tokens ({text[:40]!r}…); wanted 1 to {model.n_ctx - 1}, the context of "
            f"{model.name!r}"
        )
    x = model.activations(torch.tensor([ids], dtype=torch.int64, device="cpu"), subject.hook_name)[0]
    values, features, at = entries(subject.sae.encode(x[1:].to(subject.sae.W_dec.device, torch.float32)))
    on: list[list[list[Any]]] = [[] for _ in ids]
    for value, feature, token in sorted(
        zip(values.tolist(), features.tolist(), at.tolist(), strict=True), reverse=True
    ):
        if len(on[token + 1]) < per_token:
            on[token + 1].append([feature, short(value)])
    pieces, first = [], 0
    for piece in show(model, ids, [0.0] * len(ids), 0):
        pieces.append([piece.text, first, first + len(piece.tokens)])
        first += len(piece.tokens)
    return {
        "text": text,
        "rtl": is_right_to_left(text),
        "pieces": pieces,
        "tokens": [model.token_str(i) for i in ids],
        "on": on,
    }
