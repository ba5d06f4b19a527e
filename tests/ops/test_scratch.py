"""Memory that steps take again, and again."""

import gc
import threading

import pytest
import torch

import monosem as ms
from monosem.ops import scratch
from monosem.train.step import FastStep


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """Arrays of any size come from there, and memory that is given back holds NaN."""
    give_back = scratch._give_back
    monkeypatch.setattr(scratch, "LEAST", 16)
    monkeypatch.setattr(scratch, "_give_back", lambda memory: give_back(memory.fill_(255)))
    scratch.release()
    yield
    gc.collect()
    scratch.release()


def test_memory_is_taken_again_once_its_array_is_gone():
    first = scratch.empty((100, 8), torch.float32)
    address = first.data_ptr()
    other = scratch.empty((100, 8), torch.float32)
    assert first.shape == (100, 8) and first.is_contiguous() and other.data_ptr() != address
    del first
    # An array that is a little smaller, of another dtype; one that is far smaller gets memory of its own.
    smaller = scratch.empty((90, 7), torch.int32)
    assert smaller.data_ptr() == address and smaller.dtype == torch.int32
    del smaller
    assert scratch.empty((100,), torch.uint8).data_ptr() != address


def test_little_is_kept():
    many = [scratch.empty((1000 * (i + 1),), torch.uint8) for i in range(5)]
    del many
    assert len(scratch._free) == scratch.MOST_FREE
    scratch.release()
    assert not scratch._free


def test_small_arrays_are_left_to_the_allocator(monkeypatch):
    monkeypatch.setattr(scratch, "LEAST", 101)
    del (array := [scratch.empty((100,), torch.uint8)])[0]
    assert not array and not scratch._free


def test_gathered_rows():
    rows, numbers = torch.randn(50, 6, requires_grad=True), torch.tensor([7, 3, 3, 49])
    with torch.no_grad():
        gathered = scratch.gather(rows, numbers)
        assert torch.equal(gathered, rows[numbers]) and not scratch._free
        del gathered
        assert scratch._free
        assert scratch.gather(rows, numbers[:0]).shape == (0, 6)
    scratch.gather(rows, numbers).sum().backward()  # where gradients are recorded they arrive
    assert rows.grad.sum() == 4 * 6


def test_threads_do_not_share_an_array():
    wrong = []

    def work(number: int) -> None:
        for _ in range(200):
            array = scratch.empty((300,), torch.int32)
            array.fill_(number)
            if not bool((array == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_step_is_the_same_to_the_last_bit(monkeypatch):
    """With AuxK at work, the second step in the memory of the first; and with memory of its own each time."""

    def trained(least: int) -> list[torch.Tensor]:
        monkeypatch.setattr(scratch, "LEAST", least)
        sae = ms.TopKSAE(32, 512, 5, aux_k=8, aux_every=2, seed=0)
        step, dead = FastStep(sae), torch.arange(512) % 2 == 0
        for i in range(4):
            step(torch.randn(64, 32, generator=torch.Generator().manual_seed(i)), 1e-3, dead=dead)
        return [p.detach().clone() for p in sae.parameters()]

    for mine, theirs in zip(trained(16), trained(1 << 40), strict=True):
        assert torch.equal(mine, theirs)


def test_a_run_gives_its_memory_back(tmp_path):
    data = [torch.randn(64, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    ms.Trainer(ms.TopKSAE(16, 64, 4, seed=0), ms.TrainConfig(batch_size=64, steps=3), tmp_path, progress=False).fit(
        data
    )
    gc.collect()
    assert not scratch._free
