"""Steps as they run on a GPU: decisions and capacities come from the statistics of two steps before."""

import copy

import pytest
import torch
from nn.multiplied import multiplied

import monosem as ms
from monosem import nn
from monosem.nn import DenseBlocks, RowFactors, composed_step
from monosem.ops import capacity, delayed_stats, gpu
from monosem.ops.capacity import bucketed_capacity
from monosem.train.learner import Learner
from monosem.train.step import FastStep

N, D, F = 64, 16, 400


@pytest.fixture
def asynchronous(monkeypatch):
    """Steps are scheduled as on a GPU; the operations run on the CPU."""
    monkeypatch.setattr(gpu, "asynchronous", lambda t: True)


def batch(seed=0, n=N):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def relu(bias=-0.8):
    sae = ms.ReLUSAE(D, F, 1e-3, seed=1)
    with torch.no_grad():
        sae.b_enc.fill_(bias)
    return sae


def assert_same_gradients(a, b) -> None:
    for name in ("loss", "mse", "sparsity", "aux", "l0"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-7)
    assert torch.equal(a.fired, b.fired)
    for mine, other in zip(multiplied(a), multiplied(b), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


def test_capacities_are_few_and_large_enough():
    assert len({bucketed_capacity(count) for count in range(1, 100_000)}) < 80
    for count in range(1, 5000):
        assert count <= bucketed_capacity(count) <= max(count + 64, 1.3 * count)
    assert bucketed_capacity(0) == 0


def test_relu_with_a_capacity_gives_the_same_gradients(asynchronous, monkeypatch):
    sae, x = relu(), batch()
    sae.capacity.expect(most=60, mean=20.0)
    mine = sae.gradients(x)
    monkeypatch.undo()
    plain = relu()
    plain.capacity.density.fill_(0.0)
    expected = plain.gradients(x)
    assert isinstance(mine.parameters, RowFactors) and isinstance(expected.parameters, RowFactors)
    assert_same_gradients(mine, expected)
    most, mean = sae.capacity.stats_history[-1].tolist()
    assert mean == pytest.approx(float(expected.l0)) and most >= mean


def crowded(monkeypatch, kind):
    """An autoencoder and a batch on which far more features fire than two steps before."""
    sae, x = relu(bias=-0.3), batch()
    sae.capacity.expect(most=60, mean=1.0)
    if kind == "slots":  # enough in all, but one token has more entries than slots
        monkeypatch.setattr(sae.capacity, "_capacity", lambda n: (N * F, 64))
        with torch.no_grad():
            sae.b_enc.fill_(-3.0)
        x[5] *= 100
    elif kind == "dense":
        with torch.no_grad():
            sae.b_enc.fill_(1.0)
    return sae, x


@pytest.mark.parametrize("kind", ["all", "slots", "dense"])
def test_relu_is_encoded_again_when_entries_do_not_fit(asynchronous, monkeypatch, kind):
    sae, x = crowded(monkeypatch, kind)
    if kind != "dense":
        monkeypatch.setattr(capacity, "DENSE_ABOVE", 0.5)
    mine = sae.gradients(x)
    assert mine.left_out is None and (mine.redone == 1 if kind == "slots" else 1 < mine.redone <= N)
    with torch.no_grad():
        expected, _ = composed_step.dense(copy.deepcopy(sae), composed_step.Batch(x, sae.centred(x), x, 1.0))
    assert_same_gradients(mine, expected)
    assert isinstance(mine.parameters, DenseBlocks if kind == "dense" else RowFactors)
    most, mean = sae.capacity.stats_history[-1].tolist()
    assert mean == pytest.approx(float(expected.l0)) and most >= mean  # recorded once, of all tokens


def test_tokens_that_do_not_fit_in_a_graph_are_counted(asynchronous, monkeypatch):
    """A graph cannot encode again: the means are over the other tokens."""
    sae, x = crowded(monkeypatch, "all")
    monkeypatch.setattr(delayed_stats, "capturing", lambda t: True)
    mine = sae.gradients(x)
    entries = bucketed_capacity(2 * N + 256)
    fits = int((sae.encode(x).offsets[1:] <= entries).sum())
    assert 0 < fits < N and len(mine.parameters.values) == entries
    assert mine.redone == 0 and int(mine.left_out) == N - fits
    monkeypatch.undo()
    plain = relu(bias=-0.3)
    plain.capacity.density.fill_(0.0)
    assert_same_gradients(mine, plain.gradients(x[:fits]))


def test_metrics_count_the_tokens_encoded_again(asynchronous):
    learner = Learner(relu(bias=-0.3), ms.TrainConfig(batch_size=N, steps=10))
    learner.sae.capacity.expect(most=60, mean=1.0)
    seen = [learner.step(batch(seed), seed).get("tokens_redone", 0.0) for seed in range(4)]
    assert seen[0] > 0 and seen[2:] == [0.0, 0.0]  # two steps later the capacity is larger


def test_relu_is_dense_for_two_steps_then_sparse(asynchronous):
    step, kinds = FastStep(relu()), []
    for seed in range(5):
        gradients = step.sae.gradients
        step.sae.gradients = lambda *a, g=gradients: kinds.append(g(*a)) or kinds[-1]
        step(batch(seed), 1e-3)
        step.sae.gradients = gradients
    assert [isinstance(gradients.parameters, DenseBlocks) for gradients in kinds] == [True, True, False, False, False]
    step.sae.capacity.expect(most=capacity.MAX_SLOTS, mean=3.0)  # too many for the sparse path
    assert isinstance(step.sae.gradients(batch(9)).parameters, DenseBlocks)


@pytest.mark.parametrize(("n_dead", "before"), [(120, 130), (120, 120), (3, 60), (0, 60)])
def test_auxk_with_a_capacity_gives_the_same_gradients(asynchronous, monkeypatch, n_dead, before):
    def made():
        sae = ms.TopKSAE(D, F, 5, aux_k=8, seed=1)
        with torch.no_grad():
            sae.b_enc += 0.01 * torch.randn(F, generator=torch.Generator().manual_seed(5))
        return sae

    dead = torch.zeros(F, dtype=torch.bool)
    dead[torch.randperm(F, generator=torch.Generator().manual_seed(2))[:n_dead]] = True
    sae, x = made(), batch()
    sae.capacity.stats_history.fill_(float(before))
    mine = sae.gradients(x, dead=dead)
    monkeypatch.undo()
    assert_same_gradients(mine, made().gradients(x, dead=dead))
    assert sae.capacity.stats_history[-1, 0] == n_dead


def test_auxk_leaves_out_dead_features_beyond_its_capacity(asynchronous, monkeypatch):
    sae, x, dead = ms.TopKSAE(D, F, 5, aux_k=8, seed=1), batch(), torch.arange(F) >= 100
    sae.capacity.stats_history.fill_(10.0)
    mine = sae.gradients(x, dead=dead)
    monkeypatch.undo()
    first = dead & (dead.cumsum(0) <= bucketed_capacity(10))
    assert_same_gradients(mine, ms.TopKSAE(D, F, 5, aux_k=8, seed=1).gradients(x, dead=first))


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_a_resumed_run_takes_the_same_decisions(asynchronous, kind):
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


@pytest.mark.parametrize(
    ("make", "is_replayed"),
    [
        (lambda: ms.TopKSAE(D, F, 5, seed=0), True),
        (lambda: ms.MatryoshkaSAE(D, F, 5, activation="topk", seed=0), True),
        (lambda: ms.BatchTopKSAE(D, F, 5, seed=0), False),  # reads how many entries there are
        (lambda: ms.MatryoshkaSAE(D, F, 5, seed=0), False),
        (lambda: relu(), False),
    ],
    ids=["topk", "matryoshka of topk", "batch_topk", "matryoshka", "relu"],
)
def test_only_steps_that_never_wait_are_replayed(make, is_replayed):
    assert (make().capacity.decision() is not None) == is_replayed


def test_a_step_with_a_penalty_is_not_replayed():
    # A graph would hold the weight that the penalty had in its warm-up.
    parts = nn.Composition(nn.TopK(5), penalty=nn.L1(0.1), revival=nn.AuxK(4, 0.5))
    assert parts.capacity(F, None).decision() is None
