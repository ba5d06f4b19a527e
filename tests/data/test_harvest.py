"""harvest: the model's activations, written atomically, resumable; inputs that do not belong together are refused."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_model import HOOK, FakeModel, numbered

from monosem.data import shards, store_index
from monosem.data.folder_lock import folder_lock
from monosem.data.harvest import ActivationStream, harvest
from monosem.data.store import ActivationStore
from monosem.ops import memory

CHILD = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def make(folder, rows=37, model=None, dtype="fp32", **options):
    return harvest(model or FakeModel(), HOOK, numbered(rows), folder, dtype, progress=False, **options)


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of four contexts: ten for 37."""
    monkeypatch.setattr("monosem.data.harvest._per_shard", lambda *_: 4)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("width, skip", [(5, 1), (2, 0), (33, 15)])
def test_harvest_stores_what_the_model_gave(tmp_path, small_shards, dtype, width, skip):
    model = FakeModel(width)
    store = make(tmp_path / "deep" / "er", model=model, dtype=dtype, skip_positions=skip, skip_tokens=())
    stored, rows, positions = store.read(torch.arange(store.n_stored))
    expected = model.activations(numbered(37), HOOK)[:, skip:].reshape(-1, width)
    assert len(store.index.shards) == 10 and store.d_in == width and store.hook_name == HOOK
    assert torch.equal(stored, expected.to(shards.DTYPES[dtype]).float())
    assert torch.equal(rows * 16 + positions, numbered(37)[:, skip:].flatten())
    assert np.array_equal(store.tokens, numbered(37))
    store.verify()


def test_harvest_continues_where_it_stopped(tmp_path, small_shards):
    whole = snapshot(make(tmp_path / "whole"))
    model = FakeModel()
    real = model.activations

    def fails(tokens, hook_name):
        if model.forwards == 5:
            raise KeyboardInterrupt
        return real(tokens, hook_name)

    model.activations = fails
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "parts", model=model)
    with pytest.raises(ValueError, match=r"lacks 5 of 10 shards.*run the same `monosem harvest` again"):
        ActivationStore(tmp_path / "parts")
    again = FakeModel()
    assert snapshot(make(tmp_path / "parts", model=again)) == whole
    assert again.forwards == 5 + 1  # the five that lacked, and one to see that it is the same model


def snapshot(store) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(Path(store.folder).iterdir())}


HARVEST_CHILD = """
import sys
from fake_model import HOOK, FakeModel, numbered
from monosem.data import harvest as module
module._per_shard = lambda *_: 4
module.harvest(FakeModel(delay=0.1), HOOK, numbered(37), sys.argv[1], "fp32", progress=False)
"""


def test_harvest_continues_after_a_kill(tmp_path, small_shards):
    child = subprocess.Popen([sys.executable, "-c", HARVEST_CHILD, tmp_path / "killed"], env=CHILD)
    end = time.monotonic() + 60
    while not (tmp_path / "killed" / "shard-00002.bin").exists() and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match=f"being written to by process {child.pid}"):
        make(tmp_path / "killed")
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    (tmp_path / "killed" / ".shard-00003.bin.4194305.part").write_bytes(b"left by the dead")
    assert not (tmp_path / "killed" / "shard-00009.bin").exists()
    assert snapshot(make(tmp_path / "killed")) == snapshot(make(tmp_path / "whole"))


@pytest.mark.parametrize("damage", ["cut", "altered", "positions", "gone"])
def test_harvest_makes_only_the_damaged_shard_again(tmp_path, small_shards, damage):
    store = make(tmp_path)
    whole = snapshot(store)
    path = tmp_path / "shard-00003.bin"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "gone":
        path.unlink()
    else:
        data[40 if damage == "altered" else -9] ^= 1
        path.write_bytes(data)
    if damage in ("cut", "gone"):
        with pytest.raises(ValueError, match=r"shard 'shard-00003.bin'.*Run the same `monosem harvest`"):
            ActivationStore(tmp_path)
    else:
        with pytest.raises(ValueError, match=r"shard 'shard-00003.bin'.*altered"):
            list(ActivationStore(tmp_path))
    model = FakeModel()
    make(tmp_path, model=model)
    assert snapshot(store) == whole
    assert model.forwards == 2


def test_damaged_tokens_are_written_again(tmp_path):
    store = make(tmp_path)
    whole = snapshot(store)
    (tmp_path / "tokens.npy").write_bytes(whole["tokens.npy"][:-1])
    with pytest.raises(ValueError, match=r"tokens.npy' cannot be read.*Run the same"):
        _ = ActivationStore(tmp_path).tokens
    (tmp_path / "tokens.npy").write_bytes(whole["tokens.npy"][:-1] + b"\1")
    with pytest.raises(ValueError, match=r"tokens.npy' was altered"):
        _ = ActivationStore(tmp_path).tokens
    make(tmp_path)
    assert snapshot(store) == whole


@pytest.mark.parametrize(
    "other, message",
    [
        ({"rows": 38}, "rows: 37 there, 38 here; tokens_crc32"),
        ({"dtype": "bf16"}, "dtype: 'fp32' there, 'bf16' here"),
        ({"skip_positions": 2}, "skip_positions: 1 there, 2 here"),
        ({"model": FakeModel(offset=0.5)}, "activations of another 'fake'.*differ by"),
    ],
)
def test_harvest_into_another_harvest_is_refused(tmp_path, other, message):
    whole = snapshot(make(tmp_path))
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **other)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == whole


def test_harvest_into_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds thesis.tex and no activations; wanted a new or empty folder"):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_runs_in_one_folder(tmp_path):
    with folder_lock(tmp_path), pytest.raises(RuntimeError, match="being written to by process"):
        make(tmp_path)


def test_too_little_disk_space_is_reported_before_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"needs 17.9 kB for 1 shards, its disk has 5 kB free") as caught:
        make(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_during_a_write(tmp_path, monkeypatch):
    monkeypatch.setattr("monosem.data.harvest._per_shard", lambda *_: 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7000, hard))  # the system refuses to write the end of a shard
    try:
        with pytest.raises(OSError, match=r"could not write .*shard-00000.bin.*what was there before is untouched"):
            make(tmp_path, rows=27)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.json", "tokens.npy"]  # no shard, and no part of one


def test_a_write_error_leaves_the_good_shards(tmp_path, small_shards, monkeypatch):
    real = shards.write_shard

    def full(path, *rest):
        if path.name == "shard-00004.bin":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *rest)

    monkeypatch.setattr(shards, "write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path)
    assert [crc is not None for crc in store_index.read_index(tmp_path).shards] == [True] * 4 + [False] * 6
    monkeypatch.setattr(shards, "write_shard", real)
    assert snapshot(make(tmp_path)) == snapshot(make(tmp_path.with_name("whole")))


class Exploding(FakeModel):
    def activations(self, tokens, hook_name):
        return super().activations(tokens, hook_name).masked_fill((tokens == 13 * 16 + 7)[..., None], torch.inf)


def test_nan_or_inf_is_not_stored(tmp_path, small_shards):
    with pytest.raises(ValueError, match="gave NaN or Inf for context 13"):
        make(tmp_path, model=Exploding())
    assert [crc is not None for crc in store_index.read_index(tmp_path).shards] == [True] * 3 + [False] * 7


def test_wrong_dtype(tmp_path):
    with pytest.raises(ValueError, match="dtype: got 'int8'; wanted one of bf16, fp32"):
        make(tmp_path, dtype="int8")


class Crooked(FakeModel):
    def activations(self, tokens, hook_name):
        return super().activations(tokens, hook_name)[..., None]


BAD = [
    ({"tokens": numbered(3), "hook_name": "blocks.0.mlp.hook_pst"}, "nearest are .*hook_post"),
    ({"tokens": np.zeros((0, 16), int)}, r"got no context \[0, 16\].*shorter than one context of 16 tokens"),
    ({"tokens": torch.arange(16)}, r"got int64 \[16\]; wanted integers \[rows, n_ctx\]"),
    ({"tokens": numbered(3).float()}, r"got float32 \[3, 16\]; wanted integers"),
    ({"tokens": numbered(3, 17)}, "rows of 17 tokens; 'fake' reads at most 16"),
    ({"tokens": numbered(2) + 65_520}, "ids 65520 to 65551; 'fake' knows 0 to 65535"),
    ({"tokens": numbered(2) - 1}, "ids -1 to 30"),
    ({"skip_positions": 16}, "skip_positions: got 16; wanted 0 to 15"),
    ({"forward_contexts": 0}, "forward_contexts: got 0"),
    ({"model": Crooked()}, r"gave \[.*, 16, 5, 1\].*one vector per token"),
]


@pytest.mark.parametrize("bad, message", BAD)
def test_bad_input(bad, message, tmp_path):
    arguments = {"model": FakeModel(), "hook_name": HOOK, "tokens": numbered(3)} | bad
    with pytest.raises(ValueError, match=message):
        ActivationStream(**arguments)
    with pytest.raises(ValueError, match=message):
        harvest(**arguments, folder=tmp_path, progress=False)
    assert not list(tmp_path.glob("shard*"))


def test_a_shard_that_does_not_fit_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2000)
    with pytest.raises(ValueError, match=r"shard_mib: 555 activations of width 5 need 15.6 kB of memory.* has 2 kB"):
        make(tmp_path)
