"""ActivationStore: every token once per epoch from all over the store, exact position, bounded memory, damage found."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from fake_model import HOOK, FakeModel, numbered, token_of

from monosem.data import store_index
from monosem.data.harvest import harvest
from monosem.data.store import ActivationStore

CHILD = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
STORED = numbered(640)[:, 1:].flatten()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """640 contexts of 15 tokens, width 512, bf16 (128 tokens per block), in 7 shards of up to 100 contexts."""
    written = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monosem.data.harvest._per_shard", lambda *_: 100)
        harvest(FakeModel(512), HOOK, numbered(640), written, "bf16", progress=False)
    return written


def store(folder, **options):
    return ActivationStore(folder, **{"batch_size": 1000, "buffer_mib": 2} | options)


@pytest.mark.parametrize(
    "options",
    [{}, {"buffer_mib": 0}, {"buffer_mib": 1000}, {"batch_size": 1}, {"batch_size": 100_000}, {"epochs": 3, "seed": 5}],
)
def test_each_token_once_per_epoch(folder, options):
    source = store(folder, **options)
    batches = list(source)
    assert source.n_tokens == source.n_stored == len(STORED) and source.d_in == 512 and source.hook_name == HOOK
    assert all(len(b) == source.batch_size and b.dtype == torch.float32 for b in batches[:-1])
    for epoch in token_of(torch.cat(batches)).view(options.get("epochs", 1), -1):
        assert torch.equal(epoch.sort().values, STORED)


def test_batches_are_the_stored_activations(folder):
    rows = torch.cat(list(store(folder)))
    expected = FakeModel(512).activations(numbered(640), HOOK).bfloat16().float().flatten(0, 1)
    assert torch.equal(rows, expected[token_of(rows)])


def test_a_batch_mixes_the_whole_store(folder):
    for batch in list(store(folder, batch_size=500))[:-1]:
        contexts = token_of(batch) // 16
        assert len(contexts.unique()) > 80  # 500 of 2,048 tokens in 16 blocks of 8.5 contexts: about 130 contexts
        assert len((contexts // 100).unique()) >= 5  # of 7 shards
        assert (contexts.diff() == 0).float().mean() < 0.05


@pytest.mark.parametrize("buffer_mib", [2, 1000])
def test_seeds_and_epochs_differ_and_repeat(folder, buffer_mib):
    def two_epochs(seed=0):
        return torch.cat(list(store(folder, epochs=2, seed=seed, buffer_mib=buffer_mib)))

    two = two_epochs()
    assert torch.equal(two, two_epochs())
    assert not torch.equal(two[:9600], two[9600:])
    assert not torch.equal(two, two_epochs(seed=1))


def test_resume_at_every_batch(folder):
    whole = [*store(folder, epochs=2)]
    running = store(folder, epochs=2)
    for done, _ in enumerate(running, 1):
        resumed = store(folder, epochs=2)
        resumed.load_state_dict(json.loads(json.dumps(running.state_dict())))
        rest = iter(resumed)
        for expected in whole[done : done + 2]:
            assert torch.equal(next(rest), expected)
    assert done == len(whole) == 20


CHILD_CODE = """
import json, sys, zlib
from monosem.data.store import ActivationStore
store = ActivationStore(sys.argv[1], batch_size=1000, buffer_mib=2, epochs=None)
for batch in store:
    print(json.dumps([zlib.crc32(batch.numpy()), store.state_dict()]), flush=True)
"""


def test_resume_after_a_kill(folder):
    child = subprocess.Popen([sys.executable, "-c", CHILD_CODE, folder], stdout=subprocess.PIPE, text=True, env=CHILD)
    seen = [json.loads(child.stdout.readline()) for _ in range(13)]
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    whole, resumed = iter(store(folder, epochs=None)), store(folder, epochs=None)
    resumed.load_state_dict(seen[-1][1])
    from zlib import crc32

    assert [crc for crc, _ in seen] == [crc32(next(whole).numpy()) for _ in seen]
    rest = iter(resumed)
    assert all(torch.equal(next(rest), next(whole)) for _ in range(13))


def test_position_of_another_store_is_refused(folder, tmp_path):
    harvest(FakeModel(512), HOOK, numbered(639), tmp_path, "bf16", progress=False)
    with pytest.raises(ValueError, match="rows: 639 there, 640 here"):
        store(folder).load_state_dict(store(tmp_path).state_dict())
    with pytest.raises(ValueError, match=r"holdout: 0.1 there, 0.0 here"):
        store(folder).load_state_dict(store(folder, holdout=0.1).state_dict())


@pytest.mark.parametrize("share, count", [(0.02, 12), (0.1, 64), (0.5, 320), (0.99, 633)])
def test_holdout_splits_by_context(folder, share, count):
    rest, held = (token_of(torch.cat(list(store(folder, holdout=share, held_out=held)))) for held in (False, True))
    assert len(held) == count * 15 == store(folder, holdout=share, held_out=True).n_tokens
    assert torch.equal(torch.cat([rest, held]).sort().values, STORED)
    assert not set((rest // 16).tolist()) & set((held // 16).tolist())


def test_a_holdout_of_everything_is_refused(folder):
    with pytest.raises(ValueError, match="holdout: got 1; wanted"):
        store(folder, holdout=1)
    with pytest.raises(ValueError, match="leaves none to read"):
        store(folder, holdout=0, held_out=True)


@pytest.mark.parametrize("indices", [[0], [9599, 0, 0, 4321], [], range(0, 9600, 7)])
@pytest.mark.parametrize("kind", [list, np.asarray, torch.as_tensor])
def test_read(folder, indices, kind):
    expected = STORED[list(indices)]
    indices = kind(list(indices)) if indices else torch.zeros(0, dtype=torch.int64)
    activations, row, position = store(folder).read(indices)
    assert activations.shape == (len(expected), 512) and activations.dtype == torch.float32
    assert torch.equal(token_of(activations), expected)
    assert torch.equal(row * 16 + position, expected) and position.dtype == torch.int64


@pytest.mark.parametrize(
    "indices, message",
    [([-1], "got -1 to -1; wanted 0 to 9599"), ([3, 9600], "got 3 to 9600"), ([1.5], "float64"), ([[1]], r"\[1, 1\]")],
)
def test_read_refuses_bad_indices(folder, indices, message):
    with pytest.raises(ValueError, match=message):
        store(folder).read(indices)


@pytest.fixture
def altered(folder, tmp_path):
    """The same store with one bit of token 5,000 flipped."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "shard-00003.bin"
    data = bytearray(path.read_bytes())
    data[500 * 1024] ^= 1
    path.write_bytes(data)
    return tmp_path


def test_an_altered_shard_never_reaches_a_batch(altered, folder):
    source, good = store(altered), iter(store(folder))
    with pytest.raises(ValueError, match=r"shard 'shard-00003.bin' of .*was altered.*tokens 384 to 511.*harvest"):
        for batch in source:
            assert torch.equal(batch, next(good))
    with pytest.raises(ValueError, match="altered"):  # nor on a second attempt
        list(source)
    with pytest.raises(ValueError, match="altered"):
        source.verify()
    with pytest.raises(ValueError, match="altered"):
        source.read([5000])
    assert token_of(source.read([0, 9599])[0]).tolist() == STORED[[0, 9599]].tolist()


MEMORY_CHILD = """
import sys, torch
from monosem.data.store import ActivationStore
def anonymous():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
torch.set_num_threads(1)
store = ActivationStore(sys.argv[1], batch_size=256, buffer_mib=4, epochs=2)
before = anonymous()
print(max(anonymous() for _ in store) - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to read the memory of a process")
def test_memory_does_not_grow_with_the_store(tmp_path):
    model = FakeModel(1024)
    model.activations = lambda tokens, _: (tokens % 251).float()[..., None].expand(*tokens.shape, 1024)
    source = harvest(model, HOOK, numbered(1600), tmp_path, "bf16", shard_mib=8, progress=False)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) > 48e6 and len(source.index.shards) == 6
    done = subprocess.run([sys.executable, "-c", MEMORY_CHILD, tmp_path], env=CHILD, check=True, capture_output=True)
    assert int(done.stdout) < 32_000  # kB, for 98 MB read: a buffer of 4 MiB, batches of 1 MB, the allocator's slack


def test_an_incomplete_store_is_refused(folder, tmp_path):
    index = store_index.read_index(folder)
    index.folder, index.shards[2] = tmp_path, None
    index.write()
    with pytest.raises(ValueError, match="lacks 1 of 7 shards, its harvest was interrupted"):
        ActivationStore(tmp_path)
