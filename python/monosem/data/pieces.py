"""Token ids of documents, one after the other: long ones are tokenized in pieces, to bound memory.

A tokenizer keeps a record of every token and of every byte of a text, a hundred times the text itself. A document
longer than ``PIECE`` characters is therefore cut. A cut must not change a token. It is made before a single blank
between two characters that are letters or digits: there every tokenizer that splits text into words begins a new word.
Text that has none for long (Chinese, base64, code in one line) is cut where a letter is followed by a mark, or letters
by digits, where most such tokenizers do too. Others (those that put a blank before a text, or merge across words) are
found out: the text on either side of the cut is tokenized together and apart, and the cut is made only if that gives
the same ids. A document without such a place is tokenized whole, if the memory for that is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from monosem.data.chat import ids_of
from monosem.data.text import ChatDocument, TokenDocument
from monosem.ops.memory import check_memory

if TYPE_CHECKING:
    from monosem.data.protocols import TextEncoder
    from monosem.data.text import AnyDocument

PIECE = 1 << 16  # characters of a piece
_AT_ONCE = 1 << 19  # characters tokenized at one time
_MOST = 512  # pieces tokenized at one time
_AROUND = 128  # characters on either side of a cut that are compared
_CUTS = (  # in order of preference
    re.compile(r"(?<=[^\W_])(?= [^\W_])"),
    re.compile(r"(?<=[^\W\d_])(?=[^\w\s])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])"),
)
_SEARCHED = 1 << 14  # characters behind the end of a piece in which a cut is looked for at one time
_TRIES = 8
_RECORD = 115  # bytes of memory that a tokenizer uses per byte of text


def encode_documents(documents: Iterable[AnyDocument], model: TextEncoder) -> Iterator[tuple[str, np.ndarray]]:
    """(source, token ids int32) of each document in order, without BOS; some hundred thousand characters at a time."""
    held: list[str] = []  # pieces to come, and of each whether its document ends with it and the source of that
    ends: list[str | None] = []
    size, parts = 0, []
    for document in documents:
        if isinstance(document, (TokenDocument, ChatDocument)):
            if held:
                yield from _encoded(held, ends, parts, model)
                held, ends, size = [], [], 0
            yield document.source, ids_of(document, model)
            continue
        pieces = list(cut(document.text, model))
        for i, piece in enumerate(pieces):
            held.append(piece)
            ends.append(document.source if i == len(pieces) - 1 else None)
            size += len(piece)
            if size >= _AT_ONCE or len(held) >= _MOST:
                yield from _encoded(held, ends, parts, model)
                held, ends, size = [], [], 0
    if held:
        yield from _encoded(held, ends, parts, model)


def _encoded(
    held: list[str], ends: list[str | None], parts: list[np.ndarray], model: TextEncoder
) -> Iterator[tuple[str, np.ndarray]]:
    """Documents that end among these pieces; what is left of the last one stays in ``parts``."""
    for ids, source in zip(model.encode_batch(held), ends, strict=True):
        parts.append(np.array(ids, dtype=np.int32))
        if source is not None:
            yield source, parts[0] if len(parts) == 1 else np.concatenate(parts)
            parts.clear()


def cut(text: str, model: TextEncoder, piece: int = PIECE) -> Iterator[str]:
    """Pieces of a text, each about ``piece`` characters, whose ids one after the other are those of the text."""
    start = 0
    while len(text) - start > 2 * piece:
        at = _safe_cut(text, start + piece, model)
        if (at or len(text)) - start > 16 * PIECE:
            what = f"the tokens of {(at or len(text)) - start:,} characters without a place where they may be cut"
            check_memory(_RECORD * len(text[start:at].encode(errors="replace")), what, "text")
        if at is None:
            break
        yield text[start:at]
        start = at
    yield text[start:] if start else text


def _safe_cut(text: str, begin: int, model: TextEncoder) -> int | None:
    """The first place found at or behind ``begin`` where a cut changes no token, or None."""
    for window in range(begin, len(text), _SEARCHED):
        for cuts in _CUTS:
            for cut in islice(cuts.finditer(text, window, window + _SEARCHED), _TRIES):
                at = cut.start()
                left, right = text[at - _AROUND : at], text[at : at + _AROUND]
                together, before, behind = model.encode_batch([left + right, left, right])
                if together == [*before, *behind]:
                    return at
    return None
