"""Which tokens of a context count: one definition for training, harvesting, evaluation and indexing.

A token is left out when it stands among the first ``skip_positions`` of its context, or when its id is one of
``skip_tokens``, wherever it stands. By default these are BOS and padding: rows hold a BOS before every document, arrays
from elsewhere are padded on either side, and many models park attention on BOS with an activation a thousand times
larger than any other. A model still reads what is left out; its activation is not trained on, not replaced and not
counted, and its prediction, as the target, is not scored. The token after a BOS is scored, as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from monosem.data.protocols import HookedModel

BY_NAME = ("bos", "pad")
SkipTokens = Sequence["int | str"]


def skipped_ids(model: HookedModel, skip_tokens: SkipTokens = BY_NAME) -> tuple[int, ...]:
    """The ids that are left out at every position, sorted.

    Args:
        skip_tokens: ids, or ``"bos"`` and ``"pad"`` for those of the model (nothing where it has none); ``()``: none.

    Raises:
        ValueError: neither such a name nor an id that the model knows.
    """
    if isinstance(skip_tokens, (str, Integral)):
        skip_tokens = (skip_tokens,)
    out = set()
    for token in skip_tokens:
        if token in BY_NAME:
            own = _own(model, token)
            out |= set() if own is None else {own}
        elif isinstance(token, Integral) and not isinstance(token, bool) and 0 <= int(token) < model.d_vocab:
            out.add(int(token))
        else:
            raise ValueError(
                f"skip_tokens: got {token!r}; wanted 'bos', 'pad' or the id of a token, 0 to {model.d_vocab - 1}"
            )
    return tuple(sorted(out))


def _own(model: HookedModel, name: str) -> int | None:
    try:
        if name == "bos":
            return getattr(model, "bos_id", None)
        return getattr(getattr(model, "tokenizer", None), "pad_token_id", None)
    except ValueError:  # a model of TransformerLens without a tokenizer, or one without BOS, can still read arrays
        return None


def counted(tokens: np.ndarray, skip_positions: int, ids: Sequence[int]) -> np.ndarray:
    """bool [rows, T]: the tokens that count. ``ids`` from :func:`skipped_ids`."""
    tokens = np.asarray(tokens)
    mask = np.ones(tokens.shape, dtype=bool)
    for token in ids:
        mask &= tokens != token
    mask[:, :skip_positions] = False
    return mask


def lengths(tokens: np.ndarray, skip_positions: int, ids: Sequence[int], rows: int = 4096) -> np.ndarray:
    """How many tokens of each context count: int64 [rows], ``rows`` contexts in memory at a time."""
    parts = [counted(tokens[i : i + rows], skip_positions, ids).sum(1) for i in range(0, len(tokens), rows)]
    return np.concatenate(parts).astype(np.int64)
