"""Contexts packed from a text as it is read: bounded memory for any text, and a position to come back to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from monosem.data.documents import Documents
from monosem.data.pieces import encode_documents
from monosem.data.protocols import LanguageModel
from monosem.data.text import AnyDocument
from monosem.data.token_rows import context_length

Place = tuple[int, int]  # of a document: the part of the text, in the order of the epoch, and the row in it


class ContextReader:
    """The rows that ``pack_rows`` lays out, from documents that are read one after the other, epoch after epoch.

    Where a text has several parts (files), each epoch has them in another order, by the seed. The tokens behind the
    last whole row of an epoch are dropped.

    Args:
        epochs: how often the text is read; None: without end.

    Raises:
        ValueError: an ``n_ctx`` that the model cannot read.
    """

    def __init__(self, documents: Documents, model: LanguageModel, n_ctx: int | None = None, seed: int = 0) -> None:
        self.documents, self._model, self._seed = documents, model, seed
        self.n_ctx = context_length(model, n_ctx)
        self.epoch = 0
        self._rows_in_epoch = 0
        self._open((0, 0), 0)

    def state_dict(self) -> dict[str, int]:
        """Where the next row begins: the epoch, its document, and the tokens of that which are used."""
        part, row = self._chunks[0][0] if self._chunks else self._next
        return {"epoch": self.epoch, "part": part, "row": row, "used": self._used, "rows": self._rows_in_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state != self.state_dict():
            self.epoch, self._rows_in_epoch = state["epoch"], state["rows"]
            self._open((state["part"], state["row"]), state["used"])

    def take(self, count: int, epochs: int | None = None) -> np.ndarray:
        """The next rows, int32 [count, n_ctx]; fewer only where so many epochs are over.

        Raises:
            ValueError: the whole text is shorter than one row.
        """
        rows = np.full((count, self.n_ctx), self._model.bos_id, dtype=np.int32)
        for number in range(count):
            while not self._take_row(rows[number, 1:], epochs):
                if epochs is not None and self.epoch >= epochs:
                    return rows[:number]
                if not self._rows_in_epoch:
                    raise ValueError(
                        f"text: {str(self.documents.spec)!r} holds {self._have:,} tokens for split "
                        f"{self.documents.split!r}; wanted at least {self.n_ctx - 1}, one context of "
                        f"{self._model.name!r} (n_ctx={self.n_ctx}). Add text, or choose a shorter context."
                    )
                self.epoch, self._rows_in_epoch = self.epoch + 1, 0
                self._open((0, 0), 0)
            self._rows_in_epoch += 1
        return rows

    def _take_row(self, body: np.ndarray, epochs: int | None) -> bool:
        """Fill the tokens behind a BOS; False at the end of the text."""
        if epochs is not None and self.epoch >= epochs:
            return False
        self._read(1)
        if self._have and self._chunks[0][1][self._used] == self._model.bos_id:  # one BOS serves both
            skipped = 1
        else:
            skipped = 0
        if not self._read(len(body) + skipped):
            return False
        self._use(skipped)
        done = 0
        while done < len(body):
            chunk = self._chunks[0][1][self._used : self._used + len(body) - done]
            body[done : done + len(chunk)] = chunk
            done += len(chunk)
            self._use(len(chunk))
        return True

    def _use(self, tokens: int) -> None:
        self._have -= tokens
        self._used += tokens
        if self._chunks and self._used == len(self._chunks[0][1]):
            self._chunks.popleft()
            self._used = 0

    def _read(self, tokens: int) -> bool:
        """Have so many tokens at hand; False where the text ends before."""
        while self._have < tokens:
            encoded = next(self._encoded, None)
            if encoded is None:
                return False
            place = self._places.popleft()
            self._next = (place[0], place[1] + 1)
            if ids := encoded[1].size:
                self._chunks.append((place, np.concatenate([np.array([self._model.bos_id], np.int32), encoded[1]])))
                self._have += ids + 1
        return True

    def _open(self, place: Place, used: int) -> None:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(len(self.documents.parts)).tolist()
        self._chunks: deque[tuple[Place, np.ndarray]] = deque()  # documents at hand, each behind a BOS
        self._places: deque[Place] = deque()  # of documents that are being tokenized
        self._next, self._used, self._have = place, 0, 0

        def feed() -> Iterator[AnyDocument]:
            for part, row, document in self.documents.read(*place, order):
                self._places.append((part, row))
                yield document

        self._encoded = encode_documents(feed(), self._model)
        if used:
            self._read(used)
            self._use(used)
