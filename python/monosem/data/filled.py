"""A source of activations that brings many tokens into memory at a time: its memory, its limit.

A source may bring the next window into memory while the present one is read (``prefetch``): neither the order of the
tokens nor a position has anything to do with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from monosem.data.ahead import Ahead
from monosem.data.norm_limit import NormLimit
from monosem.ops.memory import available_memory, human_bytes
from monosem.ops.precision import lowered_products

K = TypeVar("K")
W = TypeVar("W")
Filled = Callable[[int], None]  # is told how many tokens have come into memory since it was last called


class FillingStopped(Exception):
    """``stopping`` said so while a window was brought into memory: no batch was handed out, the position stands."""


class FilledSource(Generic[K, W]):
    """Batches [N, d_in] from windows of tokens, each shuffled in memory.

    Windows have keys (K), and something is known of each that is in memory (W). A subclass implements ``_load`` and
    ``_after``, calls ``_bring`` and reads ``_buffer`` after it.

    With a limit on the norm, tokens beyond it are in no batch; ``left_out`` counts them.

    Attributes:
        prefetch: bring the next window into memory while this one is read: twice the memory of the buffer, the same
            batches. None: where a trainer says that the dictionary is on another device than the activations
            (``consumer``), and a second window fits into memory.
        consumer: the device of the dictionary, which ``read_by`` sets.
    """

    d_in: int  # of a row of a batch: all widths together
    widths: tuple[int, ...]  # of the activations that stand side by side
    norm_limit: NormLimit | None = None
    left_out: int = 0  # tokens beyond the limit, up to the present position
    progress: bool = False  # show a bar while a window is brought into memory
    filling = "filling the shuffle buffer"  # its label
    stopping: Callable[[], bool] | None = None  # called while a window is brought into memory
    prefetch: bool | None = None
    consumer: torch.device | None = None
    far: bool = False  # what is read comes over a network, and takes no time of this machine
    _bar_delay = 1.0  # seconds before it is shown
    _position: int = 0  # tokens of the sequence that were handed out or left out
    _loaded: tuple[K, W] | None = None
    _ahead: tuple[K, Ahead[W | None]] | None = None
    _size: int | None = None  # tokens of the window that was last begun

    # ---------------------------------------------------------------- what a subclass brings

    def _load(self, key: K, filled: Filled) -> W | None:
        """Bring a window into ``_room(tokens)``, calling ``filled(tokens)`` after each part; None where there is none.

        It may run in another thread, while batches are taken from the window before.
        """
        raise NotImplementedError

    def _after(self, key: K, window: W) -> K | None:
        """The window that is read after this one; None where there is none."""
        raise NotImplementedError

    # ---------------------------------------------------------------- memory

    def _set_memory(
        self, dtype: torch.dtype, device: torch.device | str, option: str, prefetch: bool | None = None
    ) -> None:
        """Windows are held in this type, there; ``option`` sets their size, for messages."""
        if prefetch not in (None, False, True):
            raise ValueError(f"prefetch: got {prefetch!r}; wanted True, False or None")
        self.prefetch = prefetch
        empty = torch.empty(0, self.d_in, dtype=dtype, device=device)
        self._memory, self._reading, self._writing, self._option = [empty, empty], 0, 0, option

    @property
    def _buffer(self) -> Tensor:
        """The window that is read; behind its tokens there may be more room."""
        return self._memory[self._reading]

    def _room(self, size: int) -> Tensor:
        """Memory for a window of so many tokens, in ``_load``."""
        held = self._memory[self._writing]
        if len(held) < size:
            self._memory[self._writing] = held = held[:0].clone()  # the old one is released before there is a new one
            self._memory[self._writing] = held = held.new_empty(size, self.d_in)
        self._size = size
        return held[:size]

    def _bring(self, key: K) -> W | None:
        """What is known of a window, once it is in memory; None where there is none."""
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # after any failure while the buffer is written, it does not count as complete
            window = self._load_now(key) if self._ahead is None else self._taken(key)
            if window is None:
                return None
            self._loaded = (key, window)
            if (following := self._after(key, window)) is not None and self._prefetches():
                self._ahead = (following, Ahead(partial(self._load_ahead, following), self._buffer.device))
        return self._loaded[1]

    def _load_now(self, key: K) -> W | None:
        self._writing = self._reading
        with self._bar() as bar:

            def filled(tokens: int) -> None:
                bar.total = self._size
                bar.update(tokens)
                self._check_stop()

            return self._load(key, filled)

    def _load_ahead(self, key: K, filled: Filled) -> W | None:
        """In another thread. One window is brought into memory at a time, so nobody else writes what this writes."""
        self._writing = 1 - self._reading
        return self._load(key, filled)

    def _taken(self, key: K) -> W | None:
        """The window from the thread that brings it, waiting for that; or another one at once."""
        assert self._ahead is not None
        at, ahead = self._ahead
        if at != key:  # a position was loaded
            self.stop_prefetch()
            return self._load_now(key)
        try:
            with self._bar() as bar:
                while not ahead.wait(0.05):
                    bar.total = self._size
                    bar.update(ahead.done - bar.n)
                    self._check_stop()
            window = ahead.take()
        finally:  # Ctrl-C comes here too
            self.stop_prefetch()
        self._reading = 1 - self._reading
        return window

    def stop_prefetch(self) -> None:
        """End the work on the next window, if there is any; a source that is read again begins it anew."""
        if self._ahead is not None:
            self._ahead[1].cancel()
            self._ahead = None

    def _prefetches(self) -> bool:
        """Whether the next window is to be brought into memory now.

        Raises:
            ValueError: it was asked for, and cannot be.
        """
        device = self._buffer.device
        if self.prefetch is False or (self.prefetch is None and not self.far and self.consumer in (None, device)):
            return False
        problem = ""
        if lowered := lowered_products(device):
            problem = (
                f"got True while {lowered}; a training step takes that back while it runs, so that the model's "
                "roundings would depend on the timing; wanted full precision. Leave that setting"
            )
        needed = self._buffer.nbytes - self._memory[1 - self._reading].nbytes
        if needed > 0 and needed > (there := _free(device)):
            problem = (
                f"got True; a second window needs {human_bytes(self._buffer.nbytes)}, and {human_bytes(there)} of "
                f"memory are left; wanted room for both. Choose a smaller {self._option}"
            )
        if problem and self.prefetch:
            raise ValueError(f"prefetch: {problem}, or leave prefetch out")
        return not problem

    # ---------------------------------------------------------------- how far it is

    def norm_record(self) -> dict[str, Any] | None:
        """The limit on the norm, and how many tokens it has left out so far, for files; None without one."""
        if self.norm_limit is None:
            return None
        return self.norm_limit.to_json() | {"left_out": self.left_out, "of": self._position}

    def _bar(self) -> tqdm:
        """A bar of its own in tokens, where filling takes long enough to wonder."""
        return tqdm(
            total=self._size,
            unit="tok",
            unit_scale=True,
            desc=self.filling,
            leave=False,
            delay=self._bar_delay,
            mininterval=0.5,
            dynamic_ncols=True,
            disable=not self.progress,
        )

    def _check_stop(self) -> None:
        if self.stopping is not None and self.stopping():
            raise FillingStopped

    def _within_limit(self, order: Tensor, window: Tensor) -> tuple[Tensor, np.ndarray | None]:
        """The tokens of a window that are within the limit, in their order, and their places in it (None: all)."""
        if self.norm_limit is None:
            return order, None
        counts = self.norm_limit.within(window.split(list(self.widths), dim=1))[order]
        return order[counts], counts.nonzero()[:, 0].cpu().numpy()


@contextmanager
def read_by(device: torch.device, source: object, progress: bool) -> Iterator[None]:
    """Meanwhile a dictionary on this device reads the source, under bars or not; nothing is prefetched behind it."""
    if not isinstance(source, FilledSource):
        yield
        return
    source.consumer, source.progress = device, progress
    try:
        yield
    finally:
        source.stop_prefetch()


def _free(device: torch.device) -> int:
    """Bytes of memory that are left there."""
    if device.type != "cuda":
        return available_memory()
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by PyTorch, not in use
    return torch.cuda.mem_get_info(device)[0] + held
