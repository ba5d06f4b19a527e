"""Numbers that a step measures and a later step decides by, so that no host waits for a GPU to decide."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

LAG = 2  # steps: the host may be that far ahead of the GPU


class OnItsWay:
    """Numbers on a device that the host wants while it goes on: the copy begins now, ``get`` waits for it alone."""

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


class Late:
    """A few numbers a step, given on the device, known to the host LAG steps later.

    By then they have arrived, or the host is LAG steps ahead and may as well wait for that step to end. Always the
    numbers of LAG steps ago, never what happens to have come: the same decisions every run. ``history`` [LAG, n], a
    buffer of the module, holds those that the host does not have yet, so that a resumed run decides as one that was
    never stopped; where it was written by someone else (a checkpoint), it is read again, which waits.
    """

    def __init__(self) -> None:
        self._waiting: deque[OnItsWay] = deque()
        self._seen: tuple[int, int] | None = None
        self._last: list[float] | None = None
        self._taken = False  # for the step that is to come

    def __deepcopy__(self, memo: dict) -> Late:
        return Late()  # what is on its way belongs to the other module

    def __reduce__(self) -> tuple:
        return Late, ()

    def take(self, history: Tensor) -> list[float]:
        """The numbers of LAG steps ago; asked again before ``put``, the same."""
        if capturing(history) and self._last is not None:
            return self._last  # a graph keeps the decision that it was captured with
        if self._seen != (history.data_ptr(), history._version):
            self._waiting.clear()
        elif self._taken:
            return self._last
        if len(self._waiting) < LAG:
            self._last = history[0].tolist()
        else:
            self._last = self._waiting.popleft().get()
        self._seen, self._taken = (history.data_ptr(), history._version), True
        return self._last

    def put(self, history: Tensor, numbers: Tensor) -> None:
        """Add this step's numbers [n], on the device of ``history``."""
        history.copy_(torch.cat([history[1:], numbers.to(history.dtype)[None]]))
        if not capturing(history):
            self.fetch(history)

    def fetch(self, history: Tensor) -> None:
        """Send for the numbers that ``put`` has just added, or the replay of a graph that holds it."""
        self._waiting.append(OnItsWay(history[-1]))
        while len(self._waiting) > LAG:
            self._waiting.popleft()
        self._seen, self._taken = (history.data_ptr(), history._version), False


def capturing(t: Tensor) -> bool:
    """Whether what is done with this tensor now becomes part of a CUDA graph, in which no host can wait."""
    if t.device.type != "cuda":
        return False
    with torch.cuda.device(t.device):
        return torch.cuda.is_current_stream_capturing()


def room_for(count: float) -> int:
    """A size of at least ``count``, one of few: some of eighths of powers of two, so that shapes seldom change."""
    grain = max(64, 1 << max(0, int(count).bit_length() - 3))
    return -(-int(count) // grain) * grain
