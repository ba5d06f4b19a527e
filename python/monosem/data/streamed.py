"""Activations of a text that is read as training goes: larger than memory, or a stream, with an exact position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.data import fingerprint
from monosem.data.context_reader import ContextReader
from monosem.data.contexts import Contexts
from monosem.data.counted import BY_NAME, SkipTokens
from monosem.data.documents import Documents
from monosem.data.filled import Filled, FilledSource
from monosem.data.harvest import default_buffer
from monosem.data.norm_limit import SAMPLED, NormLimit, SkipNorm
from monosem.data.protocols import LanguageModel
from monosem.data.sites import as_list
from monosem.ops.memory import check_memory

_ORDER = ("seed", "batch_size", "buffer_contexts", "forward_contexts")  # without effect on which tokens are read


@dataclass(frozen=True)
class _Cursor:
    """The next token: the number of its window, the reader's position where that begins, and its place in it."""

    window: int
    start: dict[str, Any]
    offset: int


@dataclass(frozen=True)
class _Key:
    """A window: its number, the reader's position where it begins, and the passes before the one it is read in."""

    window: int
    start: dict[str, Any]
    passes: int


@dataclass(frozen=True)
class _Window:
    """The tokens of a window in their order, how many are beyond the limit, and the reader's position behind it."""

    order: Tensor
    beyond: int
    end: dict[str, Any]


class StreamedActivations(FilledSource[_Key, _Window]):
    """As ``ActivationStream``, of a text that is read and tokenized on the way: memory does not grow with it.

    ``buffer_contexts`` contexts at a time are read in the order of the text, run through the model, and their tokens
    shuffled together by the seed: a batch mixes the contexts of one window. Files of a text of several are read in
    another order in each epoch. ``state_dict`` holds the exact position (file, row, token): a loaded stream goes there,
    runs one window again and continues bitwise.

    Args:
        model, hook_name, batch_size, seed, skip_positions, dtype, forward_contexts, skip_tokens, skip_norm: as in
            ``ActivationStream``, and prefetch likewise; a median is measured on the first 64 contexts of the text.
        text: a text by its name, or ``ms.documents(…)``.
        epochs: how often iterating once reads the text; None: without end.
        buffer_contexts: contexts in a window; more of them mix better. None: as in ``ActivationStream``.
        n_ctx: tokens of a context, BOS included; None: as many as the model reads.

    Attributes:
        n_tokens: None: nobody has counted them.
    """

    filling = "reading text and running the model"
    n_tokens: int | None = None

    def __init__(
        self,
        model: LanguageModel | Sequence[LanguageModel],
        hook_name: str | Sequence[str],
        text: str | Documents,
        batch_size: int = 4096,
        seed: int = 0,
        epochs: int | None = None,
        buffer_contexts: int | None = None,
        skip_positions: int = 1,
        dtype: torch.dtype = torch.float32,
        *,
        n_ctx: int | None = None,
        forward_contexts: int = 16,
        skip_tokens: SkipTokens = BY_NAME,
        skip_norm: SkipNorm = None,
        prefetch: bool | None = None,
    ) -> None:
        for name, value, minimum in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("epochs", epochs, 1),
            ("buffer_contexts", buffer_contexts, 1),
        ):
            optional = value is None and name in ("epochs", "buffer_contexts")
            if not optional and (not isinstance(value, Integral) or value < minimum):
                raise ValueError(f"{name}: got {value!r}; wanted an integer ≥ {minimum}")
        self._model, self._hook, self._dtype = model, hook_name, dtype
        self._skipped = (skip_positions, forward_contexts, skip_tokens)
        self.batch_size, self.seed, self.epochs = int(batch_size), int(seed), epochs
        documents = text if isinstance(text, Documents) else Documents(text)
        self._reader = ContextReader(documents, as_list(model)[0], n_ctx, self.seed)
        start = self._reader.state_dict()
        first = Contexts(model, hook_name, self._reader.take(SAMPLED, epochs=1), *self._skipped, skip_norm)
        self._reader.load_state_dict(start)
        self.norm_limit = first.limit
        self.hook_name, self.model_name, self.widths = first.sites.hook_name, first.sites.model_name, first.sites.widths
        self.d_in = first.d_in
        self._device = next(first.activations(np.array([0]))).device
        self._set_memory(dtype, self._device, "buffer_contexts", prefetch)
        self._buffer_is_default = buffer_contexts is None
        context_bytes = first.kept * self.d_in * dtype.itemsize
        self._window_contexts = buffer_contexts or default_buffer(context_bytes, self._device)
        self._settings = {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "buffer_contexts": self._window_contexts,
            "forward_contexts": first.batch,
            "hook_name": self.hook_name,
            "model": self.model_name,
            "weights": first.sites.weights,
            "n_ctx": first.n_ctx,
            "skip_positions": first.skip,
            "skip_tokens": list(first.skip_ids),
            "dtype": str(dtype),
            "split": documents.split,
            "text": documents.fingerprint(),
        }
        if self.norm_limit is not None:
            self._settings["skip_norm"] = self.norm_limit.multiple
        self._check_buffer(first)
        self._at = _Cursor(0, start, 0)
        self._passes = 0

    def _check_buffer(self, contexts: Contexts) -> None:
        if self._device.type == "cpu":
            tokens = self._window_contexts * contexts.kept
            needed = tokens * self.d_in * self._dtype.itemsize
            check_memory(needed, f"{tokens:,} activations of width {self.d_in:,}", "buffer_contexts")

    def fingerprint(self) -> dict[str, Any]:
        """The identity of these activations, independent of their order."""
        settings = {name: value for name, value in self._settings.items() if name not in _ORDER}
        return {"kind": f"activations ({type(self).__name__})", **settings}

    def __iter__(self) -> Iterator[Tensor]:
        while (batch := self._take()) is not None:
            yield batch
        self._passes += 1

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out, and the settings that give it a meaning. JSON-able."""
        return {
            "window": self._at.window,
            "start": self._at.start,
            "offset": self._at.offset,
            "passes": self._passes,
            "position": self._position,
            "left_out": self.left_out,
            "medians": None if self.norm_limit is None else list(self.norm_limit.medians),
            "settings": self._settings,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved position: the following batches are bitwise those of an uninterrupted iteration.

        Raises:
            ValueError: the position was saved by a source with other settings; names what differs.
        """
        try:
            saved, cursor = dict(state["settings"]), _Cursor(state["window"], dict(state["start"]), state["offset"])
            passes, position, left_out, medians = (state[n] for n in ("passes", "position", "left_out", "medians"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"state: got {state!r:.200}, without {error}; wanted the result of {type(self).__name__}.state_dict()"
            ) from None
        mine = dict(self._settings)
        if self._buffer_is_default:
            mine["buffer_contexts"] = saved.get("buffer_contexts", mine["buffer_contexts"])
        limit = None if medians is None else NormLimit(saved.get("skip_norm", 0), tuple(medians))
        there, here = saved | {"medians": medians}, mine | {"medians": self.norm_limit and self.norm_limit.medians}
        names = [*fingerprint.different(saved, mine), *sorted(saved.keys() ^ mine.keys())]
        if limit is not None and self.norm_limit is not None and not limit.is_about(self.norm_limit):
            names.append("medians")
        if names:
            differing = "; ".join(f"{n}: {there.get(n)!r} there, {here.get(n)!r} here" for n in names)
            raise ValueError(
                f"state: the saved position belongs to other activations ({differing}); wanted the settings of the "
                "run that saved it. Use those, or begin without the saved position."
            )
        self.stop_prefetch()
        self._settings, self._window_contexts, self.norm_limit = mine, mine["buffer_contexts"], limit
        self._at, self._passes, self._position, self.left_out = cursor, passes, position, left_out
        self._loaded = None

    def _take(self) -> Tensor | None:
        """The next batch, a short one at the end of a pass, None behind that. A failure leaves the position."""
        at, parts, missing, left_out = self._at, [], self.batch_size, 0
        while missing:
            found = self._bring(_Key(at.window, at.start, self._passes))
            if found is None:
                break
            order, end = found.order, found.end
            if at.offset == 0:
                left_out += found.beyond
            chosen = order[at.offset : at.offset + missing]
            parts.append(self._buffer.index_select(0, chosen))
            missing -= len(chosen)
            at = replace(at, offset=at.offset + len(chosen))
            if at.offset == len(order):
                at = _Cursor(at.window + 1, end, 0)
            if missing == self.batch_size and end["epoch"] > self._at.start["epoch"] + 1:
                raise ValueError(
                    f"skip_norm: every token of the text has {self.norm_limit}; wanted a limit that leaves tokens to "
                    "train on. Give another multiple."
                )
        count = self.batch_size - missing
        self._at, self.left_out = at, self.left_out + left_out
        self._position += count + left_out
        return torch.cat(parts) if count else None

    def _load(self, key: _Key, filled: Filled) -> _Window | None:
        self._reader.load_state_dict(key.start)
        epochs = None if self.epochs is None else (key.passes + 1) * self.epochs
        rows = self._reader.take(self._window_contexts, epochs)
        if not len(rows):
            return None
        contexts = Contexts(self._model, self._hook, rows, *self._skipped, self.norm_limit)
        out = self._room(int(contexts.lengths.sum()))
        contexts.read_into(out, np.arange(len(rows)), filled)
        order = torch.from_numpy(np.random.default_rng([self.seed, key.window]).permutation(len(out)))
        order, _ = self._within_limit(order.to(self._device), out)
        return _Window(order, len(out) - len(order), self._reader.state_dict())

    def _after(self, key: _Key, window: _Window) -> _Key:
        return replace(key, window=key.window + 1, start=window.end)
