"""The contexts that a model reads: from text or arrays, checked, and run through the model up to a hook."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from monosem.data import shards

if TYPE_CHECKING:
    from monosem.data.adapter import Model


class Contexts:
    """The activations of chosen contexts: checks its input once, then runs the model up to the hook.

    Args:
        model: from ``load_model``.
        tokens: integers [rows, n_ctx] (array, memory map, tensor or ``TokenRows``), each row one context.
        skip_positions: positions at the beginning of each context that are left out; 1 leaves out BOS.
        batch: contexts in one forward pass.

    Raises:
        ValueError: no such hook (names the nearest), no context, a shape, type or token that the model cannot read.
    """

    def __init__(self, model: Model, hook_name: str, tokens: Any, skip_positions: int, batch: int) -> None:
        self.model, self.hook_name = model, hook_name
        self.d_in = int(model.width(hook_name))
        self.tokens = checked_tokens(tokens, model)
        self.rows, self.n_ctx = self.tokens.shape
        if not isinstance(skip_positions, Integral) or not 0 <= skip_positions < self.n_ctx:
            raise ValueError(
                f"skip_positions: got {skip_positions!r}; wanted 0 to {self.n_ctx - 1}, as contexts have "
                f"{self.n_ctx} tokens"
            )
        if not isinstance(batch, Integral) or batch < 1:
            raise ValueError(f"forward_contexts: got {batch!r}; wanted an integer ≥ 1")
        self.skip, self.batch = int(skip_positions), int(batch)  # NumPy's integers are not JSON
        self.kept = self.n_ctx - self.skip
        self.settings = {
            "hook_name": hook_name, "model": model.name, "rows": self.rows, "n_ctx": self.n_ctx,
            "skip_positions": self.skip, "tokens_crc32": shards.tokens_checksum(self.tokens),
        }  # fmt: skip

    def activations(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Activations [b, kept, d_in] of these rows, ``batch`` contexts at a time."""
        for start in range(0, len(rows), self.batch):
            tokens = torch.from_numpy(self.tokens[rows[start : start + self.batch]].astype(np.int64))
            with torch.no_grad():
                found = self.model.activations(tokens, self.hook_name)
            if found.shape != (*tokens.shape, self.d_in):
                raise ValueError(
                    f"hook_name: {self.hook_name!r} of {self.model.name!r} gave {list(found.shape)} for tokens "
                    f"{list(tokens.shape)}; wanted {[*tokens.shape, self.d_in]}. Choose a hook with one vector a token."
                )
            yield found[:, self.skip :]


def checked_tokens(tokens: Any, model: Model) -> np.ndarray:
    """Tokens as an array of integers [rows, n_ctx] that the model can read, or a ValueError that says why not."""
    tokens = getattr(tokens, "tokens", tokens)
    if isinstance(tokens, Tensor):
        tokens = tokens.detach().cpu().numpy()
    tokens = tokens if isinstance(tokens, np.ndarray) else np.asarray(tokens)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens: got {tokens.dtype} {list(tokens.shape)}; wanted integers [rows, n_ctx]")
    if not tokens.size:
        raise ValueError(
            f"tokens: got no context {list(tokens.shape)}; wanted at least one row. "
            f"The text may be shorter than one context of {model.n_ctx} tokens."
        )
    if tokens.shape[1] > model.n_ctx:
        raise ValueError(f"tokens: got rows of {tokens.shape[1]} tokens; {model.name!r} reads at most {model.n_ctx}")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= model.d_vocab:
        raise ValueError(
            f"tokens: got ids {low} to {high}; {model.name!r} knows 0 to {model.d_vocab - 1}. "
            "Were the tokens made with the tokenizer of another model?"
        )
    return tokens


def load_contexts(
    model: Model,
    text: str = "sample",
    tokens: str | Path | None = None,
    split: str = "train",
    contexts: int | None = None,
) -> np.ndarray:
    """Contexts [rows, n_ctx] for a model, from text or from an array on disk.

    Args:
        text: a JSON-lines file, or ``"sample"``: the shipped text.
        tokens: a ``.npy`` file of integers [rows, n_ctx]; goes before ``text``, and is not split.
        split: ``"train"``, ``"held_out"`` (2 % of the documents of each source) or ``"all"``.
        contexts: at most so many, evenly spaced.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not text or not an array that the model can read, or no context in it.
    """
    rows = _load_array(Path(tokens)) if tokens is not None else _load_text(model, text, split)
    rows = checked_tokens(rows, model)
    if contexts is not None:
        if contexts < 1:
            raise ValueError(f"contexts: got {contexts}; wanted at least 1")
        rows = rows[np.arange(min(contexts, len(rows))) * len(rows) // min(contexts, len(rows))]
    return rows


def _load_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"tokens: no file {str(path)!r}; wanted a .npy array of integers [rows, n_ctx]")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"tokens: {str(path)!r} is not a whole .npy array ({error}); wanted integers [rows, n_ctx]"
        ) from None


def _load_text(model: Model, text: str, split: str) -> np.ndarray:
    from monosem.data.rows import pack_rows
    from monosem.data.sample import load_documents

    return np.asarray(pack_rows(load_documents(text, split), model).tokens)
