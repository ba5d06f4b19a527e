"""Types by structure: the methods that an argument must have, whatever its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TextEncoder(Protocol):
    """A model or a tokenizer that makes token ids of texts."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without BOS."""
        ...
