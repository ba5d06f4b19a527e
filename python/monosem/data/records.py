"""A document from a record of any kind of file: text, a conversation, or tokens, by what its column holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monosem.data.text import AnyDocument, ChatDocument, Document, TokenDocument
from monosem.data.unicode import check_text

TEXT, SOURCE = "text", "source"  # the default columns
DEFAULT_SOURCE = "text"  # of records that name none


def document_of(record: Mapping[str, Any], where: str, column: str = TEXT, source: str = SOURCE) -> AnyDocument | None:
    """The document in a record; None where its column is null, which holds no text.

    Args:
        where: names the record in messages.
        column: of the text (a string), the conversation (a list of messages) or the tokens (a list of integers).
        source: of the label of the collection; records without one are of the source "text".

    Raises:
        ValueError: no such column, or something else in it.
    """
    if column not in record:
        there = ", ".join(map(ascii, list(record)[:8]))
        raise ValueError(
            f"text: {where} has no column {column!r} (its columns: {there}); wanted the one that holds the text. Name "
            "it: FILE?column=NAME."
        )
    value, label = record[column], record.get(source)
    if value is None:
        return None
    label = DEFAULT_SOURCE if label is None else str(label)
    check_text(label, f"text: the source in {where}")
    if isinstance(value, str):
        check_text(value, f"text: {where}")
        return Document(label, value)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu":
        return TokenDocument(label, value)
    if isinstance(value, Sequence) and not isinstance(value, bytes) and all(type(token) is int for token in value):
        return TokenDocument(label, np.asarray(value, dtype=np.int64))
    if isinstance(value, Sequence) and all(_is_message(message) for message in value):
        return ChatDocument(label, value)
    raise ValueError(
        f"text: {where}, column {column!r}: got {type(value).__name__} {value!r:.60}; wanted a string, a list of "
        'messages {"role": …, "content": …}, or a list of token ids. Name another column: FILE?column=NAME.'
    )


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and "role" in message and "content" in message
