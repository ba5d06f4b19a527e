"""Documents → rows of tokens ready for a model, each token remembering which collection it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monosem.data.adapter import Model
from monosem.data.text import Document

_BLOCK = 512  # documents encoded at a time


@dataclass(frozen=True)
class TokenRows:
    """Contexts of one length.

    Attributes:
        tokens: int32 [rows, n_ctx]; every row begins with BOS.
        source: uint8 (int16 above 256 sources) [rows, n_ctx]: for each token an index into ``sources``. The BOS of a
            row carries the source of the token after it.
        sources: names, sorted.
    """

    tokens: Tensor
    source: Tensor
    sources: list[str]

    def __len__(self) -> int:
        return len(self.tokens)


def pack_rows(documents: Iterable[Document], model: Model) -> TokenRows:
    """Lay documents end to end, each behind a BOS, and cut rows of ``n_ctx`` tokens that begin with a BOS themselves.

    Every token of the stream stands in exactly one row, as in training; the last, incomplete row is dropped.

    Raises:
        ValueError: less text than one row.
    """
    documents = list(documents)
    sources = sorted({d.source for d in documents})
    number = {name: i for i, name in enumerate(sources)}
    stream: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for start in range(0, len(documents), _BLOCK):
        block = documents[start : start + _BLOCK]
        for document, ids in zip(block, model.encode_batch([d.text for d in block]), strict=True):
            stream.append(np.array([model.bos_id, *ids], dtype=np.int32))
            labels.append(np.full(len(ids) + 1, number[document.source], dtype=np.int16))
    total, body = sum(map(len, stream)), model.n_ctx - 1
    rows = total // body if body else 0
    if not rows:
        raise ValueError(
            f"text: got {total} tokens in {len(documents)} documents; wanted at least {body}, one context of "
            f"{model.name!r} (n_ctx={model.n_ctx}). Add text."
        )
    tokens = np.full((rows, model.n_ctx), model.bos_id, dtype=np.int32)
    tokens[:, 1:] = np.concatenate(stream)[: rows * body].reshape(rows, body)
    source = np.empty((rows, model.n_ctx), dtype=np.uint8 if len(sources) <= 256 else np.int16)
    source[:, 1:] = np.concatenate(labels)[: rows * body].reshape(rows, body)
    source[:, 0] = source[:, 1]
    return TokenRows(torch.from_numpy(tokens), torch.from_numpy(source), sources)
