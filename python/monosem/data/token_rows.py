"""Documents → rows of tokens ready for a model, each token remembering which collection it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from monosem.data.pieces import encode_documents
from monosem.data.protocols import LanguageModel
from monosem.data.text import AnyDocument, ChatDocument, Document, TokenDocument
from monosem.data.unicode import check_text

MOST_SOURCES = 1 << 31
LONGEST = 2048  # tokens of a row that nobody asked for: some models read a million


@dataclass(frozen=True)
class TokenRows:
    """Contexts of one length.

    Attributes:
        tokens: int32 [rows, n_ctx]; every row begins with BOS.
        source: uint8 (int16 above 256 sources, int32 above 32,768) [rows, n_ctx]: for each token an index into
            ``sources``. The BOS of a row carries the source of the token after it.
        sources: names, sorted.
    """

    tokens: Tensor
    source: Tensor
    sources: list[str]

    def __len__(self) -> int:
        return len(self.tokens)


def pack_rows(documents: Iterable[AnyDocument], model: LanguageModel, n_ctx: int | None = None) -> TokenRows:
    """Lay documents end to end, each behind a BOS, and cut rows of ``n_ctx`` tokens that begin with a BOS themselves.

    Every token of the stream stands in exactly one row, as in training; where a row begins with a document, one BOS
    serves both. The last, incomplete row is dropped, and so are documents without a token. Documents are read one
    after the other: the tokens are held, the text is not.

    Args:
        documents: for example from ``sample_documents`` or ``ms.documents``, or ``[Document("books", text), …]``;
            tokens and conversations too (``data/text.py``).
        n_ctx: tokens of a row, BOS included; default: the model's longest context, or 2,048 where that is longer.

    Raises:
        ValueError: no documents, an ``n_ctx`` that the model cannot read, or less text than one row.
    """
    n_ctx = context_length(model, n_ctx)
    number: dict[str, int] = {}  # number of each source, in order of appearance
    stream: list[np.ndarray] = []
    label: list[int] = []
    for source, ids in encode_documents(_checked(documents), model):
        if ids.size:
            stream.append(np.concatenate([np.array([model.bos_id], np.int32), ids]))
            label.append(number.setdefault(source, len(number)))
    lengths, body = np.array([len(ids) for ids in stream], dtype=np.int64), n_ctx - 1
    flat = np.concatenate(stream) if stream else np.zeros(0, np.int32)
    del stream
    starts = _row_starts(flat, body, model.bos_id)
    if not len(starts):
        raise ValueError(
            f"text: got {len(flat)} tokens in {len(lengths)} documents; wanted at least {body}, one context of "
            f"{model.name!r} (n_ctx={n_ctx}). Add text, or choose a shorter context (n_ctx=, --context)."
        )
    sources, kind = sorted(number), _index_type(len(number))
    sorted_number = np.empty(len(sources), dtype=kind)
    sorted_number[[number[name] for name in sources]] = np.arange(len(sources))
    labels = np.repeat(sorted_number[np.array(label, dtype=np.int64)], lengths)
    tokens = np.full((len(starts), n_ctx), model.bos_id, dtype=np.int32)
    source = np.empty((len(starts), n_ctx), dtype=kind)
    for row, start in enumerate(starts):
        tokens[row, 1:] = flat[start : start + body]
        source[row, 1:] = labels[start : start + body]
    source[:, 0] = source[:, 1]
    return TokenRows(torch.from_numpy(tokens), torch.from_numpy(source), sources)


def context_length(model: LanguageModel, n_ctx: int | None) -> int:
    """Tokens of a row, BOS included; None: as many as the model reads, 2,048 at most. ValueError: more."""
    longest = model.n_ctx
    if n_ctx is not None and (not isinstance(n_ctx, Integral) or not 2 <= n_ctx <= longest):
        raise ValueError(
            f"n_ctx: got {n_ctx!r}; wanted 2 to {longest} tokens, BOS included, as {model.name!r} reads no more"
        )
    return min(longest, LONGEST) if n_ctx is None else int(n_ctx)


def _row_starts(flat: np.ndarray, body: int, bos: int) -> list[int]:
    """Where in the stream the rows begin, each behind its own BOS: a BOS there is not laid out twice."""
    starts, at = [], 0
    while body and at < len(flat):
        at += int(flat[at] == bos)
        if at + body > len(flat):
            break
        starts.append(at)
        at += body
    return starts


def _index_type(sources: int) -> type:
    if sources > MOST_SOURCES:
        raise ValueError(f"source: got {sources:,} different names; wanted at most {MOST_SOURCES:,}")
    return np.uint8 if sources <= 256 else np.int16 if sources <= 1 << 15 else np.int32


def _checked(documents: Iterable[AnyDocument]) -> Iterator[AnyDocument]:
    expected = 'wanted documents, for example [Document("books", text)] of monosem.data.text, or ms.sample_documents()'
    if isinstance(documents, (str, bytes, Document)) or not isinstance(documents, Iterable):
        raise ValueError(f"documents: got one {type(documents).__name__}; {expected}")
    for place, document in enumerate(documents):
        if isinstance(document, str):
            document = Document("text", document)
        if isinstance(document, (TokenDocument, ChatDocument)):
            yield document
            continue
        if not isinstance(getattr(document, "text", None), str) or not isinstance(
            getattr(document, "source", None), str
        ):
            raise ValueError(f"documents: number {place} is {document!r:.80}; {expected}")
        check_text(document.text, f"documents: number {place} (source {document.source!a})")
        check_text(document.source, f"documents: the source of number {place}")
        yield document
