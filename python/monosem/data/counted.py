"""Which tokens of a context count: one definition for training, harvesting, evaluation and indexing.

A token is left out when it stands among the first ``skip_positions`` of its context, when its id is one of
``skip_tokens``, wherever it stands, or when the norm of its activation exceeds a limit (``skip_norm``, see
``data/norm_limit.py``). By default these are BOS and padding: rows hold a BOS before every document, arrays
from elsewhere are padded on either side, and many models park attention on BOS with an activation a thousand times
larger than any other. A model still reads what is left out; its activation is not trained on, not replaced and not
counted, and its prediction, as the target, is not scored (but for a token that is left out by its norm). The token
after a BOS is scored, as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.data.norm_limit import NormLimit
from monosem.data.protocols import HookedModel

BY_NAME = ("bos", "pad")  # the default
NAMES = ("bos", "eos", "pad", "special")
SkipTokens = Sequence["int | str"]


@dataclass(frozen=True)
class TokenFilter:
    """Which tokens of contexts count.

    Attributes:
        positions: left out at the beginning of each context.
        ids: left out wherever they stand (``skipped_ids``).
        limit: on the norm of activations; None: tokens alone decide.
    """

    positions: int
    ids: tuple[int, ...]
    limit: NormLimit | None = None

    def by_token(self, tokens: np.ndarray) -> Tensor:
        """bool [rows, T]: those that count, the norms of their activations aside."""
        return torch.from_numpy(counted(tokens, self.positions, self.ids))

    def by_norm(self, mask: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Those of ``mask`` [rows, T] whose activations are within the limit.

        Args:
            parts: activations [rows, T, d], one tensor per hook.
        """
        return mask if self.limit is None else mask & self.limit.within(parts).to(mask.device)


def skipped_ids(model: HookedModel, skip_tokens: SkipTokens = BY_NAME) -> tuple[int, ...]:
    """The ids that are left out at every position, sorted.

    Args:
        skip_tokens: ids, or names of those of the model (nothing where it has none): ``"bos"``, ``"eos"``, ``"pad"``,
            ``"special"`` (all that its tokenizer marks as special, those of a chat template among them); ``()``: none.

    Raises:
        ValueError: neither such a name nor an id that the model knows.
    """
    if isinstance(skip_tokens, (str, Integral)):
        skip_tokens = (skip_tokens,)
    out: set[int] = set()
    for token in skip_tokens:
        if token in NAMES:
            out |= _own(model, token)
        elif isinstance(token, Integral) and not isinstance(token, bool) and 0 <= int(token) < model.d_vocab:
            out.add(int(token))
        else:
            raise ValueError(
                f"skip_tokens: got {token!r}; wanted 'bos', 'eos', 'pad', 'special' or the id of a token, 0 to "
                f"{model.d_vocab - 1}"
            )
    return tuple(sorted(out))


def _own(model: HookedModel, name: str) -> set[int]:
    """The ids of a model for a name."""
    try:
        if name == "bos":
            ids = [getattr(model, "bos_id", None)]
        else:
            tokenizer = getattr(model, "tokenizer", None)
            ids = _special(tokenizer) if name == "special" else [getattr(tokenizer, f"{name}_token_id", None)]
    except ValueError:  # a model of TransformerLens without a tokenizer, or one without BOS, can still read arrays
        return set()
    return {int(token) for token in ids if token is not None and token < model.d_vocab}


def _special(tokenizer: Any) -> set[int]:
    """All that a tokenizer marks as special, but for the token of unknown text, which stands for text."""
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if added is None and hasattr(tokenizer, "get_added_tokens_decoder"):  # of the library ``tokenizers``
        added = tokenizer.get_added_tokens_decoder()
    ids = {token for token, entry in (added or {}).items() if entry.special}
    return (ids | set(getattr(tokenizer, "all_special_ids", ()))) - {getattr(tokenizer, "unk_token_id", None)}


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
