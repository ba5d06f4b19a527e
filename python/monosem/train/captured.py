"""A training step as a CUDA graph, replayed while its shapes stand still: one launch for the host instead of many."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

Work = Callable[[Tensor], dict[str, Tensor]]
Output = TypeVar("Output")
STILL = 2  # steps of a kind that are called before one is captured: the first of them compiles and loads kernels


class Graph(Protocol):
    """A captured step, such as ``torch.cuda.CUDAGraph``."""

    def replay(self) -> None: ...


class CaptureFailed(RuntimeError):
    """A step could not be captured; no operation of it has run, and the state of the process is as before."""


failed = ""  # the reason why a capture failed in this process, after which none is tried again


def capture(call: Callable[[], Output], device: torch.device) -> tuple[Graph, Output]:
    """The graph of a call, and the value that it returned: tensors that each replay overwrites.

    ``torch.cuda.graph`` is not used: after a failed capture it leaves the process on the capture's stream, with the
    capture's memory pool open and the random number generator registered with it.

    Raises:
        CaptureFailed: the call did something that cannot be captured.
    """
    torch.cuda.synchronize(device)
    gc.collect()
    torch.cuda.empty_cache()  # memory cached by called steps is free for the graph, which has a pool of its own
    pool, graph = torch.cuda.graph_pool_handle(), torch.cuda.CUDAGraph()
    out: Output | None = None
    error: Exception | None = None
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
        # Calls of other threads meanwhile (a model that fills a buffer) are no error of this capture.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            out = call()
        except Exception as raised:
            error = raised
        try:
            graph.capture_end()
        except Exception as raised:
            _close(pool, device)
            error = error or raised
    if error is not None:
        try:
            raise CaptureFailed(f"{type(error).__name__}: {error}".splitlines()[0][:300]) from error
        finally:
            del error  # whose traceback holds this frame, and with it the graph
    return graph, cast("Output", out)  # without an error the call has returned


def _close(pool: tuple[int, int], device: torch.device) -> None:
    """Close the parts of a capture that ``capture_end`` leaves open after an error."""
    index = torch.cuda.current_device() if device.index is None else device.index
    torch._C._cuda_endAllocateToPool(index, pool)
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())  # a copy is in no capture


class CapturedStep:
    """A piece of work on batches: called, or replayed from its graph when the last ``STILL`` batches were of one kind.

    One graph is kept, that of the present kind. A failed capture is reported once; all later steps are called.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kind: Hashable = None
        self._seen = 0
        self._x: Tensor | None = None
        self._graph: Graph | None = None
        self._names: list[str] = []
        self._numbers: Tensor | None = None

    def __call__(self, x: Tensor, kind: Hashable, work: Work) -> dict[str, Tensor]:
        """The metrics of the step on x.

        Args:
            work: the part of a step that runs on the device, the same in each call: it is given anew, since its owner
                owns this too, and neither is to keep the other in memory. It reads its batch, and all that changes from
                step to step, from memory at fixed addresses, and returns metrics, 0-dim and float32.
            kind: all that the step's launches depend on beside the shape of x.
        """
        if self._kind != (x.shape, kind):
            self._graph = self._numbers = None  # its memory is free before another graph is captured
            self._kind, self._seen = (x.shape, kind), 0
        if self._x is None or self._x.shape != x.shape:
            self._x = torch.empty_like(x, memory_format=torch.contiguous_format)
        self._x.copy_(x)
        if self._graph is None and self._seen >= STILL and not failed:
            self._capture(self._x, work)
        if self._graph is None or self._numbers is None:
            self._seen += 1
            return work(self._x)
        self._graph.replay()
        return dict(zip(self._names, self._numbers.clone().unbind(), strict=True))  # the next replay writes there

    @property
    def replaying(self) -> bool:
        """Whether the last step was replayed."""
        return self._graph is not None

    def _capture(self, x: Tensor, work: Work) -> None:
        global failed

        def call() -> Tensor:
            metrics = work(x)
            self._names = list(metrics)
            return torch.stack(list(metrics.values()))

        try:
            self._graph, self._numbers = capture(call, self._device)
        except CaptureFailed as error:
            failed = str(error)
            warnings.warn(
                f"cuda_graph: the step could not be captured as a CUDA graph ({failed}). Training goes on without: the "
                "same weights, with more work for the host. TrainConfig(cuda_graph=False) does not try.",
                RuntimeWarning,
                stacklevel=2,
            )
