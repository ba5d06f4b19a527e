"""The clock for GPUs with a simulated PyTorch: after a failed capture a process measures nothing more."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from simulated_gpu import FakeClock

from monosem.bench import gpu_clock
from monosem.bench.gpu_clock import CaptureFailed, Clock
from monosem.ops import gpu as gpu_ops


class Stream:
    def wait_stream(self, other):
        pass


class Event:
    def __init__(self, **_):
        pass

    def record(self):
        pass

    def elapsed_time(self, other):
        return 1.0


class Graph:
    replays = 0

    def replay(self):
        Graph.replays += 1


@pytest.fixture
def capturing(monkeypatch):
    """Whether a capture is under way; on a device that is not the current one."""
    state = {"capturing": False, "device": None}

    @contextmanager
    def graph(captured):
        assert state["device"] == torch.device("cuda", 1)
        state["capturing"] = True
        yield
        state["capturing"] = False  # not after an error: PyTorch leaves it under way

    @contextmanager
    def device(chosen):
        before, state["device"] = state["device"], chosen
        yield
        state["device"] = before

    made_up = {
        "synchronize": lambda *_: None,
        "get_device_properties": lambda *_: None,
        "Stream": lambda *_: Stream(),
        "current_stream": lambda *_: Stream(),
        "stream": lambda _: nullcontext(),
        "CUDAGraph": Graph,
        "graph": graph,
        "Event": Event,
        "device": device,
    }
    for name, instead in made_up.items():
        monkeypatch.setattr(torch.cuda, name, instead)
    return state


@pytest.fixture
def clock(capturing, monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *_, **__: empty(1, device="cpu"))
    return Clock(torch.device("cuda", 1), spend_ms=6)


def waits(state):
    def call():
        if state["capturing"]:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    return call


def test_a_capturable_call_is_timed_as_a_graph(clock, capturing):
    Graph.replays, calls = 0, []
    timing = clock.time(lambda: calls.append(capturing["capturing"]))
    assert (timing.how, timing.why, timing.ms) == ("graph", "", 1.0) and Graph.replays == 3 + 2 + 6
    assert calls == [False] * 4 + [True] and not clock.broken and capturing["device"] is None


def test_a_synchronising_call_is_timed_without_a_graph(clock, capturing):
    Graph.replays = 0
    assert clock.time(waits(capturing), graph=False).how == "eager" and Graph.replays == 0
    assert not clock.broken


def test_nothing_is_measured_after_a_failed_capture(clock, capturing):
    with pytest.raises(CaptureFailed, match=r"RuntimeError: CUDA error: operation not permitted.*capturing\)"):
        clock.time(waits(capturing))
    again = [lambda: clock.time(print), lambda: clock.time(print, graph=False), lambda: clock.breakdown(print)]
    for measure in [*again, lambda: clock.peak_bytes(print, 0)]:
        with pytest.raises(CaptureFailed, match=r"earlier call was not captured.*new process"):
            measure()


def test_a_call_that_fails_by_itself_breaks_nothing(clock):
    def call():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        clock.time(call)
    assert not clock.broken and clock.time(lambda: None).how == "graph"


class FakeEvent:
    """Each event is one millisecond after the previous one."""

    now = 0

    def record(self):
        FakeEvent.now += 1
        self.at = FakeEvent.now

    def elapsed_time(self, other):
        return float(other.at - self.at)


def test_where_the_time_of_a_step_goes(monkeypatch):
    for name in ("synchronize", "_sleep"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    clock = gpu_clock.Clock.__new__(gpu_clock.Clock)
    monkeypatch.setattr(gpu_clock.Clock, "_event", staticmethod(FakeEvent))
    clock.device, called = torch.device("cpu"), []
    monkeypatch.setattr(gpu_ops, "call", lambda op, *_: called.append(op))

    def step():
        for op in ("csc", "row_grad_adam_", "row_grad_adam_"):
            gpu_ops.call(op, None, ())

    plain = gpu_ops.call
    parts = clock.breakdown(step, repeats=3)
    # begin, three times (begin, end), end: seven ticks, three of them within operations.
    assert parts == {"in all": 7.0, "between": 4.0, "row_grad_adam_": 2.0, "csc": 1.0}
    assert next(iter(parts)) == "in all" and len(called) == 9 and gpu_ops.call is plain


def test_rates_come_from_what_was_timed(monkeypatch):
    clock = FakeClock()
    sizes = []
    monkeypatch.setattr(gpu_clock.torch, "empty_like", lambda t: sizes.append(t.numel() * 4) or torch.zeros_like(t))
    assert gpu_clock.copy_bytes_per_second(clock, 1 << 12) == pytest.approx(2 * (1 << 12) / 1e-3)
    assert gpu_clock.product_flops_per_second(clock, 8, 4, 64, torch.float32) == pytest.approx(2 * 8 * 4 * 64 / 1e-3)
