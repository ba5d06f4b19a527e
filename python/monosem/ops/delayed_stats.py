"""Statistics recorded on the device and read by the host two steps later, without synchronising."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from monosem.ops.seen import Seen

LAG = 2  # steps: the host may be that far ahead of the GPU


class PendingCopy:
    """A copy of a few numbers to the host, begun now; ``get`` synchronises with this copy alone."""

    def __init__(self, numbers: Tensor) -> None:
        self._event = None
        if numbers.device.type != "cuda":
            self._host = numbers.clone()
            return
        self._host = torch.empty(numbers.shape, dtype=numbers.dtype, device="cpu", pin_memory=True)
        self._host.copy_(numbers, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(numbers.device))  # where the copy is; not the current device's

    def get(self) -> list[float]:
        if self._event is not None:
            self._event.synchronize()
        return self._host.tolist()


class DelayedStats:
    """A few statistics per step, recorded on the device and read by the host LAG steps later.

    By then they have arrived, or the host is LAG steps ahead and may as well synchronise with that step. ``read``
    always gives the statistics of LAG steps ago, never more recent ones that happen to have arrived, so every run takes
    the same decisions. ``history`` [LAG, n], a buffer of the caller, holds those that the host does not have yet, so
    that a resumed run decides as one that was never stopped. Where others have written to it (a checkpoint was loaded),
    it is read from the device again, which synchronises.
    """

    def __init__(self) -> None:
        self._pending: deque[PendingCopy] = deque()
        self._seen = Seen()  # ``history`` when ``_pending`` was last valid
        self._last: list[float] = []
        self._is_read = False  # for the step that is to come

    def __deepcopy__(self, memo: dict) -> DelayedStats:
        return DelayedStats()  # pending copies belong to the other module

    def __reduce__(self) -> tuple:
        return DelayedStats, ()

    def read(self, history: Tensor) -> list[float]:
        """The statistics of LAG steps ago; the same again until the next ``record``."""
        if capturing(history) and self._last:
            return self._last  # a graph keeps the decision that it was captured with
        if not self._seen.is_still(history):
            self._pending.clear()
        elif self._is_read:
            return self._last
        if len(self._pending) < LAG:
            self._last = history[0].tolist()
        else:
            self._last = self._pending.popleft().get()
        self._seen, self._is_read = Seen(history), True
        return self._last

    def record(self, history: Tensor, statistics: Tensor) -> None:
        """Append this step's statistics [n], on the device of ``history``."""
        history.copy_(torch.cat([history[1:], statistics.to(history.dtype)[None]]))
        if not capturing(history):
            self.fetch(history)

    def fetch(self, history: Tensor) -> None:
        """Begin to copy the last statistics to the host: those of ``record``, or of a replayed graph that holds it."""
        self._pending.append(PendingCopy(history[-1]))
        while len(self._pending) > LAG:
            self._pending.popleft()
        self._seen, self._is_read = Seen(history), False


def capturing(t: Tensor) -> bool:
    """Whether operations on this tensor are being captured in a CUDA graph, in which the host cannot synchronise."""
    if t.device.type != "cuda":
        return False
    with torch.cuda.device(t.device):
        return torch.cuda.is_current_stream_capturing()
