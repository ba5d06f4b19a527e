"""What nobody holds any more is freed at once: a dictionary with its optimizer, a buffer, a model.

An object in a cycle of references stays until Python's collector looks for cycles, which it does by the number of
objects and not by their size: gigabytes of a run that is over would stand beside those of the next.
"""

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from fake_model import HOOK, FakeModel, numbered
from nn.test_kinds import KINDS, batch
from tiny import HOOK as TINY_HOOK
from tiny import tiny_documents, tiny_model

import monosem as ms
from monosem.analysis import windows
from monosem.data.ahead import Ahead
from monosem.data.harvest import harvest
from monosem.train import captured
from monosem.train.step import FastStep


@contextmanager
def nothing_is_left_to_the_collector() -> Iterator[None]:
    """What the block leaves behind in cycles holds no tensor and nothing of monosem."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {_name(o) for o in gc.garbage if isinstance(o, torch.Tensor) or type(o).__module__.startswith("monosem")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()
    assert not left


def _name(o: object) -> str:
    return f"{type(o).__module__}.{type(o).__name__}"


def freed(work: Callable[[], object]) -> None:
    gc.collect()
    gc.freeze()  # what other tests hold is not searched, which takes longer than the test
    try:
        work()  # imports, kernels that are compiled, caches: once
        with nothing_is_left_to_the_collector():
            work()
    finally:
        gc.unfreeze()


def test_a_cycle_is_found():
    def work() -> None:
        held: list[object] = [torch.zeros(3)]
        held.append(held)

    with pytest.raises(AssertionError, match=r"torch\.Tensor"):
        freed(work)


@pytest.mark.parametrize("name", KINDS)
def test_a_dictionary(name):
    def work() -> None:
        sae = KINDS[name]()
        x = batch(sae)
        sae.loss(x).loss.backward()
        sae.decode(sae.encode(x[:, : sae.cfg.d_in]))
        step = FastStep(sae)
        for _ in range(3):
            step(x, 1e-3)

    freed(work)


OPTIONS = [
    {},
    {"ema": 0.9, "clip": 0.1, "adam_state": "int8", "lazy_rows": True},
    {"resample": ms.ResampleConfig((4,), window=3, n_inputs=100)},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_run(options):
    def work() -> None:
        cfg = ms.TrainConfig(batch_size=50, steps=8, dead_after=100, checkpoint_every=4, **options)
        source = ms.ActivationStream(FakeModel(), HOOK, numbered(37), batch_size=50)
        with tempfile.TemporaryDirectory() as folder:
            ms.Trainer(ms.TopKSAE(source.d_in, 32, 4, aux_k=4, seed=0), cfg, folder, progress=False).fit(source)

    freed(work)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "store"
    harvest(FakeModel(), HOOK, numbered(80), folder, "fp32", progress=False)
    return folder


SOURCES = {
    "stream": lambda folder, prefetch: ms.ActivationStream(
        FakeModel(), HOOK, numbered(37), 50, epochs=1, buffer_contexts=10, prefetch=prefetch
    ),
    "store": lambda folder, prefetch: ms.ActivationStore(folder, 50, epochs=1, prefetch=prefetch),
    "text": lambda folder, prefetch: ms.StreamedActivations(
        tiny_model(), TINY_HOOK, "sample", batch_size=64, buffer_contexts=8, epochs=1, prefetch=prefetch
    ),
}


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_is_read(name, prefetch, stored):
    def work() -> None:
        source = SOURCES[name](stored, prefetch)
        for _, _ in zip(range(12), source, strict=False):
            pass
        source.stop_prefetch()

    freed(work)


def test_work_that_failed_in_a_thread():
    def fail(advanced: Callable[[int], None]) -> None:
        held = torch.zeros(3)
        raise ValueError(f"{held}")

    def taken() -> None:
        ahead = Ahead(fail, torch.device("cpu"))
        with pytest.raises(ValueError, match="tensor"):
            ahead.take()

    def cancelled() -> None:
        Ahead(fail, torch.device("cpu")).cancel()

    freed(taken)
    freed(cancelled)


def test_a_captured_step():
    class Owner:
        def __init__(self) -> None:
            self.weights, self.step = torch.zeros(3), captured.CapturedStep(torch.device("cpu"))

        def work(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sum": (self.weights + x).sum()}

        def __call__(self) -> None:
            self.step(torch.ones(3), None, self.work)

    freed(lambda: Owner()())


def test_the_text_of_windows():
    def work() -> None:
        model = tiny_model()
        texts = windows.TextCache(model)
        ids = ms.pack_rows(tiny_documents(), model).tokens[0].tolist()
        assert [texts.silent[t] for t in ids] and texts.text_within(ids)

    freed(work)
