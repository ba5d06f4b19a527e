"""How well a language model predicts text that it was not trained on, source by source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from tqdm.auto import tqdm

from monosem.data.adapter import Model
from monosem.data.pieces import encode_documents
from monosem.data.text import AnyDocument, Document

_WINDOWS = 16  # contexts in one forward pass


def held_out_loss(
    model: Model, documents: Iterable[AnyDocument], progress: bool = False
) -> dict[str, dict[str, float]]:
    """Nats per token and bits per byte of each source, and of all documents together (key ``"all"``).

    Every document is read in windows of ``n_ctx`` tokens, each behind a BOS; bits are divided by all the bytes of the
    text, BOS is not scored. Bits per byte can be compared between models with other tokenizers.

    Returns:
        ``{source: {"nats_per_token", "bits_per_byte", "tokens", "bytes"}}``.
    """
    read: list[tuple[str, int]] = []  # source and bytes of each: their texts are not held

    def counted() -> Iterator[Document]:
        for document in documents:
            if not isinstance(document, Document):
                raise ValueError(
                    f"text: got a document of {document.source!a} that is a conversation or tokens; wanted text, whose "
                    "bytes can be counted. Name a column of text: FILE?column=NAME."
                )
            read.append((document.source, len(document.text.encode("utf-8"))))
            yield document

    encoded = [ids for _, ids in encode_documents(counted(), model)]
    body = model.n_ctx - 1
    windows = [(i, ids[at : at + body]) for i, ids in enumerate(encoded) for at in range(0, len(ids), body)]
    windows.sort(key=lambda w: -len(w[1]))  # rows of like length together: little padding
    nats = np.zeros(len(encoded))
    bar = tqdm(total=sum(map(len, encoded)), unit="tok", unit_scale=True, disable=not progress)
    with bar:
        for start in range(0, len(windows), _WINDOWS):
            part = windows[start : start + _WINDOWS]
            rows = torch.full((len(part), len(part[0][1]) + 1), model.bos_id, dtype=torch.int64, device="cpu")
            for row, (_, ids) in zip(rows, part, strict=True):
                row[1 : len(ids) + 1] = torch.from_numpy(ids).long()
            for losses, (index, ids) in zip(model.token_losses(rows), part, strict=True):
                nats[index] += float(losses[: len(ids)].double().sum())  # what follows is padding
                bar.update(len(ids))
    sums: dict[str, np.ndarray] = {}
    for (source, size), total, ids in zip(read, nats, encoded, strict=True):
        row = np.array([total, len(ids), size])
        for key in (source, "all"):
            sums[key] = sums.get(key, 0) + row
    return {
        source: {"nats_per_token": n / t, "bits_per_byte": n / b / math.log(2), "tokens": int(t), "bytes": int(b)}
        for source, (n, t, b) in sorted(sums.items(), key=lambda s: (s[0] == "all", s[0]))
        if t
    }
