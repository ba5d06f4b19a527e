"""A piece of work that is done ahead of its use, in a thread of its own, with the bits that it has without one."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Generic, TypeVar

import torch

R = TypeVar("R")


class Cancelled(Exception):
    """Nobody wants the result any more."""


class Ahead(Generic[R]):
    """``work`` in a thread, from now on.

    PyTorch keeps some settings per thread; those that decide bits are the caller's: the number of threads of an
    operation, autocast, and the CUDA stream, on which this work is thereby in order with the caller's.

    Args:
        work: called with a function that it shall call often, with how much it has done since. That ends it after
            ``cancel``, and when the main thread has ended: Python waits for its threads.
        device: where the work computes.

    Attributes:
        done: the sum of what the work has said.
    """

    def __init__(self, work: Callable[[Callable[[int], None]], R], device: torch.device) -> None:
        self.done = 0
        self._result: R | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._finished = threading.Event()
        settings = _settings(device)
        context = contextvars.copy_context()

        def run() -> None:
            try:
                with settings():
                    self._result = context.run(work, self._advanced)
            except BaseException as error:  # whatever it is, `take` raises it
                self._error = error
            finally:
                self._finished.set()

        self._thread = threading.Thread(target=run, name="monosem prefetch")
        self._thread.start()

    def _advanced(self, count: int) -> None:
        self.done += count
        if self._cancelled or not threading.main_thread().is_alive():
            raise Cancelled

    def wait(self, seconds: float) -> bool:
        """Whether the work has ended, for which so many seconds are waited."""
        return self._finished.wait(seconds)

    def take(self) -> R:
        """The result, once the work has ended; or its error is raised, with the place where it happened."""
        self._thread.join()
        error, self._error = self._error, None  # whose traceback holds this object
        if error is not None:
            try:
                raise error
            finally:
                del error
        return self._result  # pyright: ignore[reportReturnType]  # without an error there is one

    def cancel(self) -> None:
        """End the work, and wait until it has ended."""
        self._cancelled = True
        self._thread.join()
        self._error = None


def _settings(device: torch.device) -> Callable[[], ExitStack]:
    """The settings of this thread; the function that is returned has another one enter them."""
    threads = torch.get_num_threads()
    casts = {name: torch.get_autocast_dtype(name) for name in {"cpu", device.type} if torch.is_autocast_enabled(name)}
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def entered() -> ExitStack:
        stack = ExitStack()
        torch.set_num_threads(threads)
        for name, dtype in casts.items():
            stack.enter_context(torch.autocast(name, dtype=dtype))
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))
        return stack

    return entered
