"""The contexts that a model reads: from text or arrays, checked, and run through the model up to a hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monosem.data import files, store_index
from monosem.data.counted import BY_NAME, SkipTokens, counted, lengths, skipped_ids
from monosem.data.norm_limit import SAMPLED, NormLimit, SkipNorm
from monosem.data.protocols import HookedModel, LanguageModel, Tokens
from monosem.data.sites import Sites
from monosem.ops.precision import summed_in_fp32


class Contexts:
    """The activations of chosen contexts: checks its input once, then runs the model up to the hook.

    Args:
        model, hook_name: from ``load_model``, and a hook; or several of either, see ``Sites``.
        tokens: integers [rows, n_ctx] (array, memory map, tensor or ``TokenRows``), each row one context.
        skip_positions: positions at the beginning of each context that are left out.
        skip_tokens: left out wherever they stand: ids, ``"bos"``, ``"pad"``; see ``data/counted.py``.
        batch: contexts in one forward pass.
        skip_norm: a limit on the norm of activations, or the multiple of the median that is to be one; the median is
            measured on 64 contexts. ``activations`` gives the tokens beyond it too: who reads them leaves them out.

    Attributes:
        limit: on the norm; None: none.

    Raises:
        ValueError: no such hook (names the nearest), no context, a shape, type or token that the model cannot read.
    """

    def __init__(
        self,
        model: HookedModel | Sequence[HookedModel],
        hook_name: str | Sequence[str],
        tokens: Tokens,
        skip_positions: int,
        batch: int,
        skip_tokens: SkipTokens = BY_NAME,
        skip_norm: SkipNorm = None,
    ) -> None:
        self.sites = Sites(model, hook_name)
        self.d_in = sum(self.sites.widths)
        for each in self.sites.models:
            self.tokens = checked_tokens(tokens, each)
        self.rows, self.n_ctx = self.tokens.shape
        if not isinstance(skip_positions, Integral) or not 0 <= skip_positions < self.n_ctx:
            raise ValueError(
                f"skip_positions: got {skip_positions!r}; wanted 0 to {self.n_ctx - 1}, as contexts have "
                f"{self.n_ctx} tokens"
            )
        if not isinstance(batch, Integral) or batch < 1:
            raise ValueError(f"forward_contexts: got {batch!r}; wanted an integer ≥ 1")
        self.skip, self.batch = int(skip_positions), int(batch)  # NumPy's integers are not JSON
        self.skip_ids = skipped_ids(self.sites.models[0], skip_tokens)
        self.lengths = lengths(self.tokens, self.skip, self.skip_ids)  # tokens of each context that count
        if not self.lengths.any():
            raise ValueError(
                f"skip_tokens: every token of these {self.rows} contexts is left out (the first {self.skip} of each, "
                f"and ids {list(self.skip_ids)}); wanted at least one that counts. Leave out fewer."
            )
        self.kept = self.n_ctx - self.skip  # at most
        self.settings = {
            "hook_name": self.sites.hook_name,
            "model": self.sites.model_name,
            "rows": self.rows,
            "n_ctx": self.n_ctx,
            "skip_positions": self.skip,
            "tokens_crc32": store_index.tokens_checksum(self.tokens),
        }
        if len(self.sites.widths) > 1:
            self.settings["widths"] = list(self.sites.widths)
        if (self.lengths != self.kept).any():  # otherwise the setting changes nothing, and older positions stay valid
            self.settings["skip_tokens"] = list(self.skip_ids)
        self.limit = self._limit(skip_norm)
        if self.limit is not None:
            self.settings["skip_norm"] = self.limit.to_json()

    def _limit(self, skip_norm: SkipNorm) -> NormLimit | None:
        if skip_norm is None or isinstance(skip_norm, NormLimit):
            return skip_norm
        some = np.flatnonzero(self.lengths)
        some = some[np.arange(min(SAMPLED, len(some))) * len(some) // min(SAMPLED, len(some))]
        widths = list(self.sites.widths)
        return NormLimit.measured(skip_norm, (x.split(widths, dim=1) for x in self.activations(some)))

    def counted(self, rows: np.ndarray) -> np.ndarray:
        """bool [len(rows), n_ctx]: the tokens of these contexts that count."""
        return counted(self.tokens[rows], self.skip, self.skip_ids)

    def activations(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Activations [n, d_in] of the tokens of these rows that count, ``batch`` contexts at a time."""
        return (every.index_select(0, counts) for every, counts in self._passes(rows))

    def read_into(self, out: Tensor, rows: np.ndarray, read: Callable[[int], None]) -> None:
        """Write those of all these rows to ``out``; ``read(tokens)`` is called after each part."""
        done = 0
        for every, counts in self._passes(rows):
            part = out[done : done + len(counts)]
            if (every.dtype, every.device) == (out.dtype, out.device):
                torch.index_select(every, 0, counts, out=part)  # without a copy between
            else:
                part.copy_(every.index_select(0, counts))
            done += len(counts)
            read(len(counts))

    def _passes(self, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Activations [batch · n_ctx, d_in] of all tokens of some of these rows, and the places of those that count."""
        for start in range(0, len(rows), self.batch):
            part = rows[start : start + self.batch]
            tokens = torch.from_numpy(self.tokens[part].astype(np.int64))
            # A training step, in another thread perhaps, has sums of bf16 made so: otherwise the timing would decide.
            with torch.no_grad(), summed_in_fp32():
                activations = self.sites.activations(tokens)
            counts = torch.from_numpy(self.counted(part).ravel().nonzero()[0]).to(activations.device)
            yield activations.flatten(0, 1), counts  # places: by a mask, CPUs copy element by element


def checked_tokens(tokens: Tokens, model: HookedModel) -> np.ndarray:
    """Tokens as an array of integers [rows, n_ctx] that the model can read, or a ValueError that says why not."""
    rows = getattr(tokens, "tokens", tokens)
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu().numpy()
    array = rows if isinstance(rows, np.ndarray) else np.asarray(rows)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(f"tokens: got {array.dtype} {list(array.shape)}; wanted integers [rows, n_ctx]")
    if not array.size:
        raise ValueError(
            f"tokens: got no context {list(array.shape)}; wanted at least one row. "
            f"The text may be shorter than one context of {model.n_ctx} tokens."
        )
    if array.shape[1] > model.n_ctx:
        raise ValueError(f"tokens: got rows of {array.shape[1]} tokens; {model.name!r} reads at most {model.n_ctx}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= model.d_vocab:
        raise ValueError(
            f"tokens: got ids {low} to {high}; {model.name!r} knows 0 to {model.d_vocab - 1}. "
            "Were the tokens made with the tokenizer of another model?"
        )
    return array


def load_contexts(
    model: LanguageModel,
    text: str = "sample",
    tokens: str | Path | None = None,
    split: str = "train",
    contexts: int | None = None,
    context: int | None = None,
) -> np.ndarray:
    """Contexts [rows, n_ctx] for a model, from text or from an array on disk.

    Args:
        text: see ``data/documents.py``; ``"sample"``: the shipped text.
        tokens: a ``.npy`` file of integers [rows, n_ctx], or [n], which is cut into contexts as it stands; goes before
            ``text``, and is not split. It is mapped into memory, and may be larger than that.
        split: ``"train"``, ``"held_out"`` (2 % of the documents of each source) or ``"all"``.
        contexts: greatest number, evenly spaced.
        context: tokens of each, BOS included, when text is cut; default: the longest that the model
            reads, 2,048 at most.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not text or not an array that the model can read, or no context in it.
    """
    if tokens is not None:
        rows = _load_array(Path(tokens), model, context)
    else:
        rows = _load_text(model, text, split, context)
    rows = checked_tokens(rows, model)
    if contexts is not None:
        if contexts < 1:
            raise ValueError(f"contexts: got {contexts}; wanted at least 1")
        rows = rows[np.arange(min(contexts, len(rows))) * len(rows) // min(contexts, len(rows))]
    return rows


def _load_array(path: Path, model: LanguageModel, context: int | None) -> np.ndarray:
    array = files.read_array(path, "tokens", "wanted a whole .npy array of integers [rows, n_ctx]")
    if array.ndim == 1:
        length = model.n_ctx if context is None else context
        if not 1 <= length <= model.n_ctx:
            raise ValueError(
                f"context: got {context}; wanted 1 to {model.n_ctx} tokens, as {model.name!r} reads no more"
            )
        return array[: len(array) // length * length].reshape(-1, length)
    if context is not None:
        raise ValueError(
            f"context: got {context} and an array of tokens, whose rows are contexts already; wanted one of the two. "
            "Leave out --context, or give --text."
        )
    return array


def _load_text(model: LanguageModel, text: str, split: str, context: int | None) -> np.ndarray:
    from monosem.data.sample import stream_documents
    from monosem.data.token_rows import pack_rows
    from monosem.data.vectors import own_rows

    if (own := own_rows(model, text, split, context)) is not None:
        return np.asarray(own.tokens)
    return np.asarray(pack_rows(stream_documents(text, split), model, context).tokens)
