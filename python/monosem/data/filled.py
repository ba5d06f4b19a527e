"""A source of activations that brings many tokens into memory at a time: its bar, its way to stop, its limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from monosem.data.norm_limit import NormLimit


class FillingStopped(Exception):
    """``stopping`` said so while a window was brought into memory: no batch was handed out, the position stands."""


class FilledSource:
    """Batches [N, d_in] from windows of tokens, each shuffled in memory.

    A subclass implements ``_fill``, which tells ``_filled`` how far it is.

    With a limit on the norm, tokens beyond it are in no batch; ``left_out`` counts them.
    """

    d_in: int  # of a row of a batch: all widths together
    widths: tuple[int, ...]  # of the activations that stand side by side
    norm_limit: NormLimit | None = None
    left_out: int = 0  # tokens beyond the limit, up to the present position
    progress: bool = False  # show a bar while a window is brought into memory
    filling = "filling the shuffle buffer"  # its label
    stopping: Callable[[], bool] | None = None  # called while a window is brought into memory
    _bar_delay = 1.0  # seconds before it is shown
    _position: int = 0  # tokens of the sequence that were handed out or left out

    def _fill(self, units: np.ndarray, out: Tensor) -> None:
        """Write the tokens of ``units``, one unit after the other in any fixed order, into ``out`` [n, d_in]."""
        raise NotImplementedError

    def norm_record(self) -> dict[str, Any] | None:
        """The limit on the norm, and how many tokens it has left out so far, for files; None without one."""
        if self.norm_limit is None:
            return None
        return self.norm_limit.to_json() | {"left_out": self.left_out, "of": self._position}

    def _fill_watched(self, units: np.ndarray, out: Tensor) -> None:
        """``_fill`` under a bar of its own in tokens, where that takes long enough to wonder."""
        with tqdm(
            total=len(out),
            unit="tok",
            unit_scale=True,
            desc=self.filling,
            leave=False,
            delay=self._bar_delay,
            mininterval=0.5,
            dynamic_ncols=True,
            disable=not self.progress,
        ) as self._bar:
            self._fill(units, out)

    def _filled(self, tokens: int) -> None:
        """Called by ``_fill``: so many more tokens are in memory."""
        self._bar.update(tokens)
        if self.stopping is not None and self.stopping():
            raise FillingStopped

    def _within_limit(self, order: Tensor, window: Tensor) -> tuple[Tensor, np.ndarray | None]:
        """The tokens of a window that are within the limit, in their order, and their places in it (None: all)."""
        if self.norm_limit is None:
            return order, None
        counts = self.norm_limit.within(window.split(list(self.widths), dim=1))[order]
        return order[counts], counts.nonzero()[:, 0].cpu().numpy()
