"""Training with captured steps, on an emulation of graphs: the same weights as without them."""

import pytest
import torch
from graphs import capture_into

import monosem as ms
from monosem.ops import delayed_stats, gpu
from monosem.train import captured
from monosem.train.learner import Learner

N, D, F, K = 24, 12, 300, 4


@pytest.fixture
def did(monkeypatch):
    """Steps are scheduled as on a GPU and graphs are emulated; a list of their captures and replays, in order."""
    done, on = [], [False]
    monkeypatch.setattr(gpu, "asynchronous", lambda t: True)
    monkeypatch.setattr(captured, "failed", "")
    monkeypatch.setattr(captured, "capture", capture_into(done, on))
    monkeypatch.setattr(delayed_stats, "capturing", lambda t: on[0])
    return done


def learner(graph: bool, kind: str = "topk", **options) -> Learner:
    sae = ms.TopKSAE(D, F, K, aux_k=6, seed=1) if kind == "topk" else ms.ReLUSAE(D, F, 1e-3, seed=1)
    # The learning rate is another one at each step; after a few tokens most features are dead.
    options = {"batch_size": N, "steps": 30, "lr_warmup": 10, "dead_after": 5 * N} | options
    return Learner(sae, ms.TrainConfig(cuda_graph=graph, **options))


def batch(seed: int, n: int = N) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def same(a: Learner, b: Learner) -> None:
    mine, other = a.state_dict(), b.state_dict()
    assert mine.keys() == other.keys()
    for name in mine:
        assert torch.equal(mine[name], other[name]), name


OPTIONS = [{}, {"ema": 0.9}, {"clip": 0.1}, {"adam_state": "int8", "lazy_rows": True}]


@pytest.mark.parametrize("options", OPTIONS)
def test_replayed_steps_give_the_same_weights_and_metrics(did, options, by_definition):
    with_graph, without = learner(True, **options), learner(False, **options)
    for step in range(18):
        x = batch(step)
        mine, plain = with_graph.step(x.clone(), step), without.step(x, step)
        assert mine.keys() == plain.keys() and mine["lr"] == plain["lr"]
        for name in mine.keys() - {"lr"}:
            assert float(mine[name]) == float(plain[name]), (step, name)
        same(with_graph, without)
    # Once while no feature is dead, and again for the capacity that dead features need.
    assert did.count("capture") >= 2 and did.count("replay") >= 8
    assert float(mine["aux"]) > 0


@pytest.fixture
def by_definition(monkeypatch):
    """The definitions in PyTorch compute the step, so that factors on the device and on the host take the same code."""
    monkeypatch.setenv("MONOSEM_BACKEND", "reference")


def test_a_step_is_captured_again_when_the_batch_size_changes(did, by_definition):
    with_graph, without = learner(True, dead_after=10**6), learner(False, dead_after=10**6)
    for step, n in enumerate([N] * 5 + [N - 3] * 2 + [N] * 4):
        mine, plain = with_graph.step(batch(step, n), step), without.step(batch(step, n), step)
        assert torch.equal(mine["loss"], plain["loss"])
    same(with_graph, without)
    assert did == ["capture", *["replay"] * 3, "capture", *["replay"] * 2]  # two of N − 3 are too few


def test_changes_of_the_weights_between_steps_are_seen(did, by_definition):
    """In place (resampling, a checkpoint), and by new memory, whose address a graph does not have."""
    with_graph, without = learner(True, dead_after=10**6), learner(False, dead_after=10**6)
    for step in range(12):
        for one in (with_graph, without):
            if step == 4:
                with torch.no_grad():
                    one.sae.W_enc_rows[3] *= 0.5
                one.fast.reset_features(torch.tensor([3]))
            if step == 8:
                one.sae.W_dec.data = one.sae.W_dec.data.clone()
            one.step(batch(step), step)
    same(with_graph, without)
    assert did == ["capture", *["replay"] * 6, "capture", *["replay"] * 2]


def test_a_resumed_run_replays_the_same_steps(did, by_definition):
    whole, first, second = (learner(True) for _ in range(3))
    for step in range(16):
        whole.step(batch(step), step)
        (first if step < 9 else second).step(batch(step), step)
        if step == 8:
            second.load_state_dict(first.state_dict())
    same(whole, second)


def test_metrics_of_a_step_stay_when_the_next_is_replayed(did, by_definition):
    one = learner(True, dead_after=10**6)
    kept = [one.step(batch(step), step)["loss"] for step in range(6)]
    assert did.count("replay") == 4 and len({float(loss) for loss in kept}) == 6


def test_nothing_is_captured_when_off_or_without_a_gpu(did, monkeypatch):
    off = learner(False)
    for step in range(5):
        off.step(batch(step), step)
    monkeypatch.setattr(gpu, "asynchronous", lambda t: False)
    here = learner(True)
    for step in range(5):
        here.step(batch(step), step)
    assert did == []


def test_relu_steps_are_not_captured(did):
    one = learner(True, "relu")
    one.sae.capacity.expect(most=60, mean=5.0)
    for step in range(5):
        one.step(batch(step), step)
    assert did == []


def test_a_failed_capture_warns_once_and_training_continues(did, by_definition, monkeypatch):
    """A step that synchronises cannot be captured: no operation of it has run, and it is called."""
    with_graph, other, without = learner(True), learner(True), learner(False)
    fired = ms.SparseCode.fired
    monkeypatch.setattr(ms.SparseCode, "fired", lambda code: fired(code) | bool(code.values.sum() < 0))
    with pytest.warns(
        RuntimeWarning, match=r"cuda_graph: the step could not be captured .*not permitted.*same weights"
    ):
        for step in range(3):
            with_graph.step(batch(step), step)
            without.step(batch(step), step)
    assert did == ["capture"]
    monkeypatch.setattr(ms.SparseCode, "fired", fired)
    for step in range(3, 14):  # a process in which one failed captures no more, nor for others
        with_graph.step(batch(step), step)
        without.step(batch(step), step)
        other.step(batch(step), step)
    assert did == ["capture"]
    same(with_graph, without)


class Cuda:
    """The functions of PyTorch that ``capture`` calls; ``log`` has them in order. ``ends``: a capture can be ended."""

    def __init__(self, monkeypatch, ends: bool) -> None:
        log, cuda = [], torch.cuda

        class Within:
            def __init__(self, what):
                self.what = what

            def __enter__(self):
                log.append(f"enter {self.what}")

            def __exit__(self, *_):
                log.append(f"leave {self.what}")

        class Graph:
            def capture_begin(self, pool, capture_error_mode):
                log.append(f"begin {pool} {capture_error_mode}")

            def capture_end(self):
                log.append("end")
                if not ends:
                    raise RuntimeError("operation failed due to a previous error during capture")

        class Generator:
            def clone_state(self):
                return "copy"

            def graphsafe_set_state(self, state):
                log.append(f"generator {state}")

        for name, made in {
            "synchronize": lambda device: None,
            "empty_cache": lambda: None,
            "graph_pool_handle": lambda: "pool",
            "CUDAGraph": Graph,
            "Stream": lambda device: "side",
            "stream": Within,
            "device": Within,
            "default_generators": [None, Generator()],
        }.items():
            monkeypatch.setattr(cuda, name, made)

        def closed(index, pool):
            log.append(f"close {index} {pool}")

        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", closed, raising=False)
        self.log = log


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("ends", [True, False])
def test_a_failed_capture_is_closed_and_its_stream_is_left(monkeypatch, raises, ends):
    cuda, device = Cuda(monkeypatch, ends), torch.device("cuda", 1)

    def call() -> str:
        cuda.log.append("call")
        if raises:
            raise ValueError("no room")
        return "metrics"

    if ends and not raises:
        assert captured.capture(call, device)[1] == "metrics"
    else:
        with pytest.raises(captured.CaptureFailed, match="ValueError: no room" if raises else "a previous error"):
            captured.capture(call, device)
    undone = [] if ends else ["close 1 pool", "generator copy"]
    assert cuda.log == [
        "enter cuda:1",
        "enter side",
        "begin pool thread_local",
        "call",
        "end",
        *undone,
        "leave side",
        "leave cuda:1",
    ]


def test_the_trainer_warns_of_nothing_else(did, by_definition, tmp_path):
    def run(graph: bool, folder) -> ms.Trainer:
        config = ms.TrainConfig(batch_size=N, steps=14, log_every=7, dead_after=3 * N, cuda_graph=graph)
        sae = ms.TopKSAE(D, F, K, aux_k=6, seed=1)
        return ms.Trainer(sae, config, folder, progress=False).fit([batch(seed) for seed in range(14)])

    mine, plain = run(True, tmp_path / "a"), run(False, tmp_path / "b")
    assert did.count("replay") > 5
    for a, b in zip(mine.learners[0].sae.parameters(), plain.learners[0].sae.parameters(), strict=True):
        assert torch.equal(a, b)
    assert mine.last_metrics == plain.last_metrics
    # The option is not part of the identity of a run: it may change at a resume.
    assert run(False, tmp_path / "a").steps_done == 14


def test_a_graph_of_another_k_is_not_replayed(did, by_definition):
    learners = []
    for graph in (True, False):
        sae = ms.TopKSAE(D, F, K, aux_k=0, initial_k=2 * K, k_anneal=0.5, seed=1)
        learners.append(Learner(sae, ms.TrainConfig(cuda_graph=graph, steps=40)))
    for step in range(36):
        mine, plain = (learner.step(batch(step), step) for learner in learners)
        assert float(mine["l0"]) == float(plain["l0"]), step
    same(*learners)
    assert did.count("capture") >= 2 and did.count("replay") >= 8
