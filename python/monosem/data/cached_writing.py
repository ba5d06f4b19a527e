"""Text written token by token with a model's cache of keys and values: each forward pass reads the new tokens alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Replace = Callable[[Tensor], Tensor]
_CACHES = ("cache", "past_key_values")  # names in the output of transformers, by version; the input has the same name


class Position:
    """Where in a text the tokens of the next forward pass begin."""

    start = 0


class Continued:
    """A function from the activations of a whole text, called with those of its new tokens alone.

    A function with ``from_position(start)`` gives one that takes the tokens from there on. Any other one gets the
    earlier activations in front of the new ones, as it would without a cache.
    """

    def __init__(self, change: Replace, position: Position) -> None:
        self._change, self._position = change, position
        self._earlier: Tensor | None = None

    def __call__(self, new: Tensor) -> Tensor:
        start = self._position.start
        if (move := getattr(self._change, "from_position", None)) is not None:
            return move(start)(new)
        earlier = self._earlier if start else None  # at 0 the text is read anew
        whole = new if earlier is None else torch.cat([earlier[:, :start], new], dim=1)
        self._earlier = whole
        return self._change(whole)[:, start:]


def continued(replace: Mapping[str, Replace] | None, position: Position) -> dict[str, Replace]:
    """The functions of ``replace`` for passes that begin at ``position``."""
    return {name: Continued(change, position) for name, change in (replace or {}).items()}


class CachedWriter:
    """The tokens of a growing text → the logits of the next, [d_vocab].

    Args:
        forward: (new tokens [1, n], the model's cache or {}) → the model's output, with ``logits`` and a cache.
        position: moved here, for the functions of :func:`continued`.
    """

    def __init__(self, forward: Callable[[Tensor, dict[str, Any]], Any], position: Position) -> None:
        self._forward, self._position = forward, position
        self._cache: dict[str, Any] = {}

    def __call__(self, out: Sequence[int]) -> Tensor:
        start = self._position.start
        new = torch.tensor([list(out[start:])], dtype=torch.int64, device="cpu")
        output = self._forward(new, self._cache)
        name = next((name for name in _CACHES if output.get(name) is not None), None)
        # A model without a cache reads all tokens again.
        self._cache, self._position.start = ({name: output[name]}, len(out)) if name else ({}, 0)
        return output["logits"][0, -1]
