"""The stream of activations as the trainer sees it: checked batches, counted, with a position to come back to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def check_batch(x: object, like: Tensor, d_in: int, number: int, movable: bool = False) -> Tensor:
    """``x`` [N, d_in], ready for a step, in the dtype of the weights ``like``; bf16 and fp16 widen exactly.

    ``movable``: a batch on the CPU goes to the weights' device, once it is checked: so that no one waits for a GPU to
    say that it is finite. A batch that is on a GPU already is waited for.

    Raises:
        TypeError: not a tensor, or a dtype that does not fit the weights.
        ValueError: wrong shape or device, no row, or a NaN or Inf. The message names the batch, counted from 0.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"batch {number}: got {type(x).__name__}; wanted a tensor [N, d_in={d_in}]")
    if x.ndim != 2 or x.shape[1] != d_in:
        hint = "; flatten leading dimensions with x.flatten(0, -2)" if x.ndim > 2 else ""
        raise ValueError(f"batch {number}: got shape {list(x.shape)}; wanted [N, d_in={d_in}]{hint}")
    if not len(x):
        raise ValueError(f"batch {number}: got no row; wanted [N, d_in={d_in}] with N ≥ 1")
    if x.device != like.device and not (movable and x.device.type == "cpu"):
        raise ValueError(f"batch {number}: got device {x.device}; wanted {like.device}, where the weights are")
    if x.dtype not in (like.dtype, torch.bfloat16, torch.float16):
        raise TypeError(f"batch {number}: got {x.dtype}; wanted {like.dtype}, or bfloat16 or float16 to be widened")
    x = x.detach()
    if x.device == like.device:
        x = x.to(like.dtype)
    # One pass: a NaN or Inf anywhere makes the sum so. A sum of large finite numbers may overflow, hence the recount.
    if not torch.isfinite(x.sum()):
        bad = ~torch.isfinite(x)
        if bad.any():
            row, column = bad.nonzero()[0].tolist()
            raise ValueError(
                f"batch {number}: got {int(torch.isnan(x).sum())} NaN and {int(torch.isinf(x).sum())} Inf, the first "
                f"at row {row}, column {column}; wanted finite activations. No weight was changed by this batch. Find "
                "out where they come from (half-precision overflow in the model is common), or leave that input out."
            )
    if x.device != like.device:  # from pinned memory: from other memory a copy waits
        x = x.pin_memory().to(like.device, non_blocking=True).to(like.dtype)
    return x


class TensorBatches:
    """Endless shuffled batches of a tensor [n, D] in memory: each epoch without replacement, in an order of its own."""

    def __init__(self, x: Tensor, batch_size: int, seed: int) -> None:
        self._x, self._batch_size, self._seed = x, min(batch_size, len(x)), seed
        self._epoch, self._next = 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        while len(self._x):
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
            order = torch.randperm(len(self._x), generator=generator, device="cpu")
            while self._next + self._batch_size <= len(self._x):
                rows = order[self._next : self._next + self._batch_size]
                self._next += self._batch_size
                yield self._x[rows.to(self._x.device)]
            self._epoch, self._next = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._next = state["epoch"], state["next"]


class Batches:
    """One walk over a source of activations.

    ``source`` is any iterable of [N, d_in] batches, or a tensor [n, d_in] (see ``TensorBatches``). A source with
    ``state_dict`` and ``load_state_dict`` is put back exactly where it was; any other one is read again from its
    beginning, skipping the batches already used. Batches on the CPU are moved to the weights' device.
    """

    def __init__(self, source: Any, like: Tensor, d_in: int, batch_size: int, seed: int) -> None:
        if isinstance(source, Tensor):
            if source.ndim != 2 or source.shape[1] != d_in or not len(source):
                raise ValueError(f"activations: got a tensor {list(source.shape)}; wanted [n ≥ 1, d_in={d_in}]")
            source = TensorBatches(source, batch_size, seed)
        if not isinstance(source, Iterable):
            raise TypeError(f"activations: got {type(source).__name__}; wanted an iterable of batches [N, d_in={d_in}]")
        width = getattr(source, "d_in", d_in)
        if width != d_in:
            raise ValueError(f"activations: got width {width}; wanted d_in={d_in} of the autoencoder")
        self.source, self.number = source, 0
        self._like, self._d_in = like, d_in
        self._iterator: Iterator | None = None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Tensor:
        """The next batch, checked. Raises StopIteration at the end, ValueError if there was no batch at all."""
        if self._iterator is None:
            self._iterator = iter(self.source)
        try:
            x = next(self._iterator)
        except StopIteration:
            if self.number == 0:
                raise ValueError(
                    f"activations: got an empty stream; wanted at least one batch [N, d_in={self._d_in}]. "
                    "A generator that was read before is empty: make a new one."
                ) from None
            raise
        number, self.number = self.number, self.number + 1
        return check_batch(x, self._like, self._d_in, number, movable=True)

    @property
    def exact(self) -> bool:
        """Whether the source can tell its position."""
        return hasattr(self.source, "state_dict") and hasattr(self.source, "load_state_dict")

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number, "source": self.source.state_dict() if self.exact else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position of ``state``.

        Raises:
            ValueError: the source is of the other sort than the one saved, or ends before that position.
        """
        if (state["source"] is not None) != self.exact:
            had, has = ("a", "no") if state["source"] is not None else ("no", "a")
            raise ValueError(
                f"activations: the run was saved with {had} source state, this source has {has} state_dict; "
                "wanted the same kind of source as before"
            )
        self.number = state["number"]
        if self.exact:
            self.source.load_state_dict(state["source"])
            return
        self._iterator = iter(self.source)
        for skipped in range(self.number):
            if next(self._iterator, None) is None:
                raise ValueError(
                    f"activations: ended after {skipped} batches, while skipping the {self.number} that the run has "
                    "used already; wanted the same stream from its beginning"
                )
