"""The byte-level BPE tokenizer of the bundled language models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monosem.data import pieces
from monosem.data.text import Document

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BOS = "<|bos|>"  # begins every document and every context; also serves as end-of-text and padding
BOS_ID = 0


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> "Tokenizer":
    """Train a byte-level BPE: any string round-trips, an unseen script falls back to its bytes.

    Args:
        texts: the training text, streamed.
        vocab_size: number of entries, the 256 bytes and the one special token included.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size: got {vocab_size}; wanted at least 257 (256 bytes and one special token)")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return plain_text(tokenizer)


def plain_text(tokenizer: "Tokenizer") -> "Tokenizer":
    """A copy of a tokenizer, for which a text that spells ``<|bos|>`` is those letters and not the token."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy


def load_tokenizer(path: str | Path) -> "Tokenizer":
    """Load a ``tokenizer.json``."""
    from tokenizers import Tokenizer

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"tokenizer: no file {str(path)!r}; wanted a tokenizer.json (of the `tokenizers` library)"
        )
    try:
        return plain_text(Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(
            f"tokenizer: {str(path)!r} is not a tokenizer ({error}); wanted a tokenizer.json (of the `tokenizers` "
            "library)"
        ) from None


def encode_documents(tokenizer: "Tokenizer", documents: Iterable[Document]) -> Iterator[np.ndarray]:
    """Token ids of each document in order, int32, each beginning with BOS; long documents go in pieces."""
    for _, ids in pieces.encode_documents(documents, _Encoder(tokenizer)):
        yield np.concatenate([np.array([BOS_ID], dtype=np.int32), ids])


class _Encoder:
    """A tokenizer as a model has it."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts))]


def pack_contexts(tokens: Iterable[np.ndarray], n_ctx: int, dtype: type = np.int32) -> Iterator[np.ndarray]:
    """Lay documents end to end and cut rows of ``n_ctx`` tokens behind a BOS: blocks [rows, n_ctx + 1], as they fill.

    Every token of the stream stands in exactly one row, after position 0; the last, incomplete row is dropped.
    """
    begun = np.zeros(0, np.int32)
    for ids in tokens:
        stream = np.concatenate([begun, ids])
        rows = len(stream) // n_ctx
        begun = stream[rows * n_ctx :]
        if rows:
            packed = np.full((rows, n_ctx + 1), BOS_ID, dtype=dtype)
            packed[:, 1:] = stream[: rows * n_ctx].reshape(rows, n_ctx)
            yield packed
