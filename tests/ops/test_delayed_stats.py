"""Statistics that the host reads two steps later."""

import copy

import torch

from monosem.ops.delayed_stats import LAG, DelayedStats


def test_statistics_are_read_two_steps_later():
    stats, history = DelayedStats(), torch.zeros(LAG, 1)
    read = []
    for step in range(6):
        read += stats.read(history)
        stats.record(history, torch.tensor([10.0 + step]))
    assert read == [0.0, 0.0, 10.0, 11.0, 12.0, 13.0]
    restored, other = torch.zeros(LAG, 1), copy.deepcopy(stats)
    restored.copy_(history)  # as from a checkpoint
    for _ in range(2):
        assert other.read(restored) == stats.read(history)
        for s, h in ((other, restored), (stats, history)):
            s.record(h, torch.tensor([99.0]))
    history.fill_(5.0)  # written by others: pending copies do not count
    assert stats.read(history) == [5.0]


class OnTheSecond(torch.Tensor):
    """A tensor that claims to be on the second GPU."""

    device = torch.device("cuda", 1)


def test_copies_are_recorded_on_the_device_of_the_statistics(monkeypatch):
    """The current device is another one: an event on its stream is done before the copy has arrived."""
    current, recorded, asked = [0], [], []

    class Device:
        def __init__(self, device):
            self.index = torch.device(device).index

        def __enter__(self):
            current.append(self.index)

        def __exit__(self, *_):
            current.pop()

    class Event:
        def record(self, stream=None):
            recorded.append(current[-1] if stream is None else stream)

        def synchronize(self):
            pass

    def capturing():
        asked.append(current[-1])
        return False

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda d=None: current[-1] if d is None else torch.device(d).index
    )
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", capturing)
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **o: empty(*size, **o))
    stats, history = DelayedStats(), torch.zeros(LAG, 1).as_subclass(OnTheSecond)
    for step in range(4):
        stats.read(history)
        stats.record(history, torch.tensor([float(step)]))
    assert recorded == [1] * 4 and set(asked) == {1}
