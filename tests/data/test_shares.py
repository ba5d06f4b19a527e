"""Several readers of a store, each no more than its share of every batch: together they have the batches of one."""

import numpy as np
import pytest
import torch
from fake_model import HOOK, FakeModel, numbered

from monosem.data import shards
from monosem.data.harvest import harvest
from monosem.data.store import ActivationStore
from monosem.distributed.peers import share_of

BATCH, ROWS = 32, 37  # 555 tokens: batches cross windows and epochs
SHARES = [(rank, size) for size in (2, 3) for rank in range(size)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A store of ten shards, in parts of ten tokens."""
    monkeypatch.setattr("monosem.data.harvest._per_shard", lambda *_: 4)
    monkeypatch.setattr(shards, "_CHUNK_BYTES", 200)
    harvest(FakeModel(), HOOK, numbered(ROWS), tmp_path, "fp32", progress=False)
    return tmp_path


def opened(folder, mib, **options):
    return ActivationStore(folder, BATCH, seed=1, epochs=None, buffer_mib=mib, **options)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("mib", [0, 1])
@pytest.mark.parametrize("prefetch", [False, True])
def test_a_share_is_that_of_the_whole_batch(folder, share, mib, prefetch):
    whole, store = opened(folder, mib), opened(folder, mib, prefetch=prefetch)
    mine = share_of(BATCH, *share)
    for number, (theirs, ours) in enumerate(zip(whole, store, strict=False)):
        divided = store._share is not None
        assert torch.equal(ours[mine], theirs[mine]) if divided else torch.equal(ours, theirs), number
        assert store.state_dict() == whole.state_dict()
        if number in (4, 30):  # whole ones at first, and from 20 to 30
            assert store.divide(share)
        if number == 20:
            assert not store.divide(None)
        if number == 50:
            break
    again = opened(folder, mib)
    again.load_state_dict(store.state_dict())
    assert again.divide(share)
    assert torch.equal(next(iter(again))[mine], next(iter(whole))[mine])


@pytest.mark.parametrize("size", [2, 3])
def test_what_is_read_is_a_share(folder, size):
    epoch = ROWS * 15 * 20  # bytes
    whole = opened(folder, 1)
    stores = [opened(folder, 1) for _ in range(size)]
    for rank, store in enumerate(stores):
        store.divide((rank, size))
    for part in (whole, *stores):
        steps = iter(part)
        for _ in range(17 * 5):  # five epochs, and less than a batch
            next(steps)
    assert whole.bytes_read == 5 * epoch
    once = epoch / size  # its parts of the checksums, in the first epoch
    for store in stores:
        assert whole.bytes_read / size * 0.95 < store.bytes_read < (whole.bytes_read / size + once) * 1.05
    checked = sum(np.concatenate([shard._checked.astype(int) for shard in store._shards]) for store in stores)
    assert (checked == 1).all(), "each part is compared by one of them"


def test_a_damaged_part_is_found_by_one_of_them(folder):
    path = folder / "shard-00003.bin"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    found = 0
    for rank in range(2):
        store = opened(folder, 1)
        store.divide((rank, 2))
        try:
            for _ in zip(range(18), store, strict=False):
                pass
        except ValueError as error:
            assert "shard-00003.bin" in str(error)
            found += 1
    assert found == 1


@pytest.mark.parametrize("options", [{"skip_norm": 1.5}, {"epochs": 2}, {"batch_size": 2}])
def test_batches_that_cannot_be_divided_are_whole(folder, options):
    store, whole = (ActivationStore(folder, **({"batch_size": BATCH, "epochs": None} | options)) for _ in range(2))
    assert not store.divide((0, 3))
    assert torch.equal(next(iter(store)), next(iter(whole)))
