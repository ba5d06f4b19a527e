"""The way that steps go on a GPU, where no host waits: decided by what was measured two steps before."""

import copy

import pytest
import torch
from nn.multiplied import multiplied

import monosem as ms
from monosem.nn import DenseBlocks, RowFactors
from monosem.nn.late import LAG, Late, room_for
from monosem.ops import gpu
from monosem.train.learner import Learner
from monosem.train.step import FastStep

N, D, F = 64, 16, 400


@pytest.fixture
def asynchronous(monkeypatch):
    """Everyone believes that tensors are on a GPU; the operations know better."""
    monkeypatch.setattr(gpu, "asynchronous", lambda t: True)


def batch(seed=0, n=N):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def relu(bias=-0.8):
    sae = ms.ReLUSAE(D, F, 1e-3, seed=1)
    with torch.no_grad():
        sae.b_enc.fill_(bias)
    return sae


def arrays(sae, made) -> list[torch.Tensor]:
    """All gradients."""
    return multiplied(made)


def same(sae, made, other) -> None:
    for name in ("loss", "mse", "sparsity", "aux", "l0"):
        torch.testing.assert_close(getattr(made, name), getattr(other, name), rtol=1e-5, atol=1e-7)
    assert torch.equal(made.fired, other.fired)
    for a, b in zip(arrays(sae, made), arrays(sae, other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_numbers_come_two_steps_late():
    late, history = Late(), torch.zeros(LAG, 1)
    seen = []
    for step in range(6):
        seen += late.take(history)
        late.put(history, torch.tensor([10.0 + step]))
    assert seen == [0.0, 0.0, 10.0, 11.0, 12.0, 13.0]
    restored, other = torch.zeros(LAG, 1), copy.deepcopy(late)
    restored.copy_(history)  # as from a checkpoint
    for _ in range(2):
        assert other.take(restored) == late.take(history)
        for l, h in ((other, restored), (late, history)):
            l.put(h, torch.tensor([99.0]))
    history.fill_(5.0)  # written by someone else: what was on its way is of no account
    assert late.take(history) == [5.0]


def test_rooms_are_few_and_large_enough():
    rooms = {room_for(count) for count in range(1, 100_000)}
    assert len(rooms) < 80 and all(count <= room_for(count) <= max(count + 64, 1.3 * count) for count in range(1, 5000))
    assert room_for(0) == 0


def test_relu_without_a_wait_is_relu(asynchronous, monkeypatch):
    sae, x = relu(), batch()
    sae.expect(most=60, mean=20.0)
    mine = sae.gradients(x)
    monkeypatch.undo()
    plain = relu()
    plain.density.fill_(0.0)
    wanted = plain.gradients(x)
    assert isinstance(mine.parameters, RowFactors) and isinstance(wanted.parameters, RowFactors)
    same(sae, mine, wanted)
    most, mean = sae.recent[-1].tolist()
    assert mean == pytest.approx(float(wanted.l0)) and most >= mean


def crowded(monkeypatch, kind):
    """A batch of which far more fires than two steps before; gradients in a graph, as called, and as defined."""
    sae, x = relu(bias=-0.3), batch()
    sae.expect(most=60, mean=1.0)
    if kind == "slots":  # room for all, but one token has more entries than slots
        monkeypatch.setattr(sae, "_room", lambda n: (N * F, 64))
        with torch.no_grad():
            sae.b_enc.fill_(-3.0)
        x[5] *= 100
    elif kind == "dense":
        with torch.no_grad():
            sae.b_enc.fill_(1.0)
    return sae, x


@pytest.mark.parametrize("kind", ["room", "slots", "dense"])
def test_relu_encodes_once_more_when_entries_do_not_fit(asynchronous, monkeypatch, kind):
    sae, x = crowded(monkeypatch, kind)
    if kind != "dense":
        monkeypatch.setattr(ms.nn.relu, "DENSE_ABOVE", 0.5)
    mine = sae.gradients(x)
    assert mine.left_out is None and (mine.redone == 1 if kind == "slots" else 1 < mine.redone <= N)
    with torch.no_grad():
        wanted = copy.deepcopy(sae)._dense(x, 1.0, False)
    same(sae, mine, wanted)
    assert isinstance(mine.parameters, DenseBlocks if kind == "dense" else RowFactors)
    most, mean = sae.recent[-1].tolist()
    assert mean == pytest.approx(float(wanted.l0)) and most >= mean  # once, of all tokens: the next steps have room


def test_in_a_graph_what_does_not_fit_is_counted(asynchronous, monkeypatch):
    """Nothing can be done again there: the means are over the other tokens."""
    sae, x = crowded(monkeypatch, "room")
    monkeypatch.setattr(ms.nn.relu, "capturing", lambda t: True)
    mine = sae.gradients(x)
    room = room_for(2 * N + 256)
    fits = int((sae.encode(x).offsets[1:] <= room).sum())
    assert 0 < fits < N and len(mine.parameters.values) == room
    assert mine.redone == 0 and int(mine.left_out) == N - fits
    monkeypatch.undo()
    plain = relu(bias=-0.3)
    plain.density.fill_(0.0)
    same(sae, mine, plain.gradients(x[:fits]))


def test_what_was_redone_is_in_the_metrics(asynchronous):
    learner = Learner(relu(bias=-0.3), ms.TrainConfig(batch_size=N, steps=10))
    learner.sae.expect(most=60, mean=1.0)
    seen = [learner.step(batch(seed), seed).get("tokens_redone", 0.0) for seed in range(4)]
    assert seen[0] > 0 and seen[2:] == [0.0, 0.0]  # two steps later there is room


def test_relu_begins_dense_and_finds_its_room(asynchronous):
    step, kinds = FastStep(relu()), []
    for seed in range(5):
        gradients = step.sae.gradients
        step.sae.gradients = lambda *a, g=gradients: kinds.append(g(*a)) or kinds[-1]
        step(batch(seed), 1e-3)
        step.sae.gradients = gradients
    assert [isinstance(made.parameters, DenseBlocks) for made in kinds] == [True, True, False, False, False]
    step.sae.expect(most=ms.nn.relu.MOST_SLOTS, mean=3.0)  # tokens with so many have no slots
    assert isinstance(step.sae.gradients(batch(9)).parameters, DenseBlocks)


@pytest.mark.parametrize(("n_dead", "before"), [(120, 130), (120, 120), (3, 60), (0, 60)])
def test_auxk_without_a_wait_is_auxk(asynchronous, monkeypatch, n_dead, before):
    def made():
        sae = ms.TopKSAE(D, F, 5, aux_k=8, seed=1)
        with torch.no_grad():
            sae.b_enc += 0.01 * torch.randn(F, generator=torch.Generator().manual_seed(5))
        return sae

    dead = torch.zeros(F, dtype=torch.bool)
    dead[torch.randperm(F, generator=torch.Generator().manual_seed(2))[:n_dead]] = True
    sae, x = made(), batch()
    sae.recent.fill_(float(before))
    mine = sae.gradients(x, dead=dead)
    monkeypatch.undo()
    same(sae, mine, made().gradients(x, dead=dead))
    assert sae.recent[-1, 0] == n_dead


def test_auxk_has_no_room_for_all_of_the_newly_dead(asynchronous, monkeypatch):
    sae, x, dead = ms.TopKSAE(D, F, 5, aux_k=8, seed=1), batch(), torch.arange(F) >= 100
    sae.recent.fill_(10.0)
    mine = sae.gradients(x, dead=dead)
    monkeypatch.undo()
    first = dead & (dead.cumsum(0) <= room_for(10))
    same(sae, mine, ms.TopKSAE(D, F, 5, aux_k=8, seed=1).gradients(x, dead=first))


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_a_resumed_run_decides_alike(asynchronous, kind):
    def made():
        return FastStep(relu() if kind == "relu" else ms.TopKSAE(D, F, 5, aux_k=8, seed=1))

    dead = torch.arange(F) % 3 == 0
    whole, first, second = made(), made(), made()
    for seed in range(9):
        whole(batch(seed), 1e-3, dead=dead if seed > 3 else None)
        (first if seed < 5 else second)(batch(seed), 1e-3, dead=dead if seed > 3 else None)
        if seed == 4:
            second.sae.load_state_dict(first.sae.state_dict())
            second.load_state_dict(first.state_dict())
    for a, b in zip(whole.sae.parameters(), second.sae.parameters(), strict=True):
        assert torch.equal(a, b)


class OnTheSecond(torch.Tensor):
    """A tensor that believes to be on the second GPU."""

    device = torch.device("cuda", 1)


def test_everything_happens_on_the_device_of_the_numbers(monkeypatch):
    """The current device is another one: an event on its stream is done before the numbers have come."""
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
    late, history = Late(), torch.zeros(LAG, 1).as_subclass(OnTheSecond)
    for step in range(4):
        late.take(history)
        late.put(history, torch.tensor([float(step)]))
    assert recorded == [1] * 4 and set(asked) == {1}
