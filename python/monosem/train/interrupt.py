"""Ctrl-C during training: finish the step, save, then stop."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType


class StopRequest:
    """While entered, SIGINT and SIGTERM set ``signal`` instead of stopping Python; a second one stops at once.

    Signals can be caught in the main thread only; in any other thread this does nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore()

    def _ask(self, number: int, frame: object) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old.clear()

    def raise_if_asked(self, message: str) -> None:
        """Print the message and stop as the signal would: KeyboardInterrupt for Ctrl-C, exit code 143 for SIGTERM."""
        if self.signal is None:
            return
        print(message, file=sys.stderr)
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(message)
