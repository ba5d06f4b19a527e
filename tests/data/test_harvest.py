"""ActivationStream: every token once an epoch, contexts mixed, exact position. harvest: whole, resumable, refusing."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_model import HOOK, FakeModel, numbered, token_of

from monosem.data import files, shards, source
from monosem.data.harvest import ActivationStream, harvest
from monosem.data.store import ActivationStore

CHILD = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def stream(rows=37, model=None, **options):
    options = {"batch_size": 50, "buffer_contexts": 10, "epochs": 1} | options
    return ActivationStream(model or FakeModel(), HOOK, numbered(rows), **options)


@pytest.mark.parametrize(
    "rows, options",
    [
        (37, {}),
        (1, {}),
        (37, {"batch_size": 1}),
        (37, {"batch_size": 10_000}),
        (37, {"buffer_contexts": 1}),
        (37, {"buffer_contexts": 10_000, "forward_contexts": 7}),
        (37, {"skip_positions": 0}),
        (37, {"skip_positions": 15}),
        (7, {"epochs": 3, "batch_size": 64, "dtype": torch.bfloat16}),
    ],
)
def test_each_token_once_an_epoch(rows, options):
    skip, epochs = options.get("skip_positions", 1), options.get("epochs", 1)
    made = stream(rows, **options)
    batches = list(made)
    assert all(len(b) == made.batch_size for b in batches[:-1])
    assert {b.dtype for b in batches} == {options.get("dtype", torch.float32)}
    wanted = numbered(rows)[:, skip:].flatten()
    assert made.n_tokens == len(wanted)
    for epoch in token_of(torch.cat(batches)).view(epochs, -1):
        assert torch.equal(epoch.sort().values, wanted)


def test_batches_are_the_models_activations():
    model, tokens = FakeModel(), numbered(37)
    rows = torch.cat(list(stream(model=model)))
    assert torch.equal(rows, model.activations(tokens, HOOK).flatten(0, 1)[token_of(rows)])


def test_a_batch_mixes_contexts():
    rows = torch.cat([token_of(b) // 16 for b in stream(320, batch_size=256, buffer_contexts=64)][:-1]).view(-1, 256)
    distinct = [len(row.unique()) for row in rows]
    assert min(distinct) >= 60  # 256 of 960 tokens of 64 contexts: 63.4 expected; 17 would be contexts in order
    follows = (rows.diff(dim=1) == 0).float().mean()
    assert follows < 0.03  # neighbours in a batch of one context: 1/64 expected


def test_seeds_and_epochs_differ_and_repeat():
    two = torch.cat(list(stream(epochs=2)))
    assert torch.equal(two, torch.cat(list(stream(epochs=2))))
    assert not torch.equal(two[:555], two[555:])
    assert not torch.equal(two, torch.cat(list(stream(epochs=2, seed=1))))
    once = stream()
    assert torch.equal(two, torch.cat([*once, *once]))  # iterating again is the next epoch


def test_last_window_is_not_a_leftover():
    made = stream(21, buffer_contexts=10)
    assert np.diff(made._bounds).tolist() == [7, 7, 7]


def test_endless():
    batches = iter(stream(3, epochs=None, batch_size=30))
    assert sum(len(next(batches)) for _ in range(10)) == 300


@pytest.mark.parametrize("epochs", [2, None])
def test_resume_at_every_batch(epochs):
    whole = iter(stream(epochs=epochs))
    uninterrupted = [next(whole) for _ in range(20)]
    running = stream(epochs=epochs)
    batches = iter(running)
    for done in range(20):
        state = json.loads(json.dumps(running.state_dict()))
        resumed = stream(epochs=epochs)
        resumed.load_state_dict(state)
        rest = iter(resumed)
        for wanted in uninterrupted[done : done + 3]:
            assert torch.equal(next(rest), wanted)
        next(batches)


def test_resume_at_the_end():
    running = stream()
    for _ in running:
        last = running.state_dict()
    resumed, after = stream(), stream()
    resumed.load_state_dict(last)
    assert list(resumed) == []
    after.load_state_dict(running.state_dict())  # saved after the loop: the next loop is the next epoch
    assert torch.equal(torch.cat(list(after)), torch.cat(list(running)))


STREAM_CHILD = """
import json, sys, torch
from fake_model import HOOK, FakeModel, numbered
from monosem.data.harvest import ActivationStream
stream = ActivationStream(FakeModel(), HOOK, numbered(37), batch_size=50, buffer_contexts=10)
for batch in stream:
    print(json.dumps([batch.tolist(), stream.state_dict()]), flush=True)
"""


def test_resume_after_a_kill():
    child = subprocess.Popen([sys.executable, "-c", STREAM_CHILD], stdout=subprocess.PIPE, text=True, env=CHILD)
    seen = [json.loads(child.stdout.readline()) for _ in range(7)]
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    resumed = stream(epochs=None)
    resumed.load_state_dict(seen[-1][1])
    rest = iter(resumed)
    whole = iter(stream(epochs=None))
    for batch, _ in seen:
        assert torch.equal(torch.tensor(batch), next(whole))
    for _ in range(7):
        assert torch.equal(next(rest), next(whole))


@pytest.mark.parametrize(
    "other, said",
    [
        ({"seed": 1}, "seed: 1 there, 0 here"),
        ({"batch_size": 51}, "batch_size: 51 there, 50 here"),
        ({"rows": 38}, "rows: 38 there, 37 here; tokens_crc32"),
        ({"dtype": torch.bfloat16}, "dtype"),
    ],
)
def test_position_of_another_stream_is_refused(other, said):
    made = stream()
    with pytest.raises(ValueError, match=said):
        made.load_state_dict(stream(**other).state_dict())
    assert made.state_dict()["position"] == 0
    with pytest.raises(ValueError, match="lacks 'position'"):
        made.load_state_dict({"step": 3})


def test_an_error_in_the_model_loses_nothing():
    model = FakeModel()
    made, whole = stream(model=model), torch.cat(list(stream()))
    first = next(iter(made))
    wanted, model.activations = model.activations, lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(made)
    model.activations = wanted
    handed_out = made.state_dict()["position"]
    assert torch.equal(first, whole[:50])
    assert torch.equal(torch.cat(list(made)), whole[handed_out:])


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
    ({"model": Crooked()}, r"gave \[.*, 16, 5, 1\].*one vector a token"),
]


@pytest.mark.parametrize("bad, said", BAD)
def test_bad_input(bad, said, tmp_path):
    arguments = {"model": FakeModel(), "hook_name": HOOK, "tokens": numbered(3)} | bad
    with pytest.raises(ValueError, match=said):
        ActivationStream(**arguments)
    with pytest.raises(ValueError, match=said):
        harvest(**arguments, folder=tmp_path, progress=False)
    assert not list(tmp_path.glob("shard*"))


@pytest.mark.parametrize(
    "bad, said",
    [
        ({"batch_size": 0}, "batch_size: got 0; wanted an integer ≥ 1"),
        ({"seed": -1}, "seed: got -1"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"buffer_contexts": 0}, "buffer_contexts: got 0"),
        ({"dtype": torch.int64}, "dtype: got torch.int64"),
    ],
)
def test_bad_options(bad, said):
    with pytest.raises(ValueError, match=said):
        stream(**bad)


def test_a_buffer_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(source, "available_memory", lambda: 2000)
    with pytest.raises(ValueError, match=r"150 activations of width 5 need 3 kB, this machine has 2 kB"):
        next(iter(stream(30)))


# --- harvest ---


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
    store = make(tmp_path / "deep" / "er", model=model, dtype=dtype, skip_positions=skip)
    found, rows, positions = store.read(torch.arange(store.n_stored))
    wanted = model.activations(numbered(37), HOOK)[:, skip:].reshape(-1, width)
    assert len(store.index.shards) == 10 and store.d_in == width and store.hook_name == HOOK
    assert torch.equal(found, wanted.to(shards.DTYPES[dtype]).float())
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
    (tmp_path / "killed" / ".shard-00003.bin.1.part").write_bytes(b"left by the dead")
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
        with pytest.raises(ValueError, match="shard 'shard-00003.bin'.*Run the same `monosem harvest`"):
            ActivationStore(tmp_path)
    else:
        with pytest.raises(ValueError, match="shard 'shard-00003.bin'.*altered"):
            list(ActivationStore(tmp_path))
    model = FakeModel()
    make(tmp_path, model=model)
    assert snapshot(store) == whole
    assert model.forwards == 2


def test_damaged_tokens_are_written_again(tmp_path):
    store = make(tmp_path)
    whole = snapshot(store)
    (tmp_path / "tokens.npy").write_bytes(whole["tokens.npy"][:-1])
    with pytest.raises(ValueError, match="tokens.npy' cannot be read.*Run the same"):
        ActivationStore(tmp_path).tokens
    (tmp_path / "tokens.npy").write_bytes(whole["tokens.npy"][:-1] + b"\1")
    with pytest.raises(ValueError, match="tokens.npy' was altered"):
        ActivationStore(tmp_path).tokens
    make(tmp_path)
    assert snapshot(store) == whole


@pytest.mark.parametrize(
    "other, said",
    [
        ({"rows": 38}, "rows: 37 there, 38 here; tokens_crc32"),
        ({"dtype": "bf16"}, "dtype: 'fp32' there, 'bf16' here"),
        ({"skip_positions": 2}, "skip_positions: 1 there, 2 here"),
        ({"model": FakeModel(offset=0.5)}, "activations of another 'fake'.*differ by"),
    ],
)
def test_harvest_into_another_harvest_is_refused(tmp_path, other, said):
    whole = snapshot(make(tmp_path))
    with pytest.raises(ValueError, match=said):
        make(tmp_path, **other)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == whole


def test_harvest_into_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds thesis.tex and no activations; wanted a new or empty folder"):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_runs_in_one_folder(tmp_path):
    with files.folder_lock(tmp_path), pytest.raises(RuntimeError, match="being written to by process"):
        make(tmp_path)


def test_too_little_disk_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"needs 17.9 kB for 1 shards, its disk has 5 kB free") as caught:
        make(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


FULL_CHILD = """
import resource, sys
from fake_model import HOOK, FakeModel, numbered
from monosem.data import harvest as module
module._per_shard = lambda *_: 20
resource.setrlimit(resource.RLIMIT_FSIZE, (7000, 7000))
module.harvest(FakeModel(), HOOK, numbered(27), sys.argv[1], "fp32", progress=False)
"""


def test_a_disk_that_is_full_in_mid_write(tmp_path, small_shards):
    done = subprocess.run([sys.executable, "-c", FULL_CHILD, tmp_path], env=CHILD, capture_output=True, text=True)
    assert "could not write" in done.stderr and "shard-00000.bin" in done.stderr, done.stderr
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
    assert [crc is not None for crc in shards.read_index(tmp_path).shards] == [True] * 4 + [False] * 6
    monkeypatch.setattr(shards, "write_shard", real)
    assert snapshot(make(tmp_path)) == snapshot(make(tmp_path.with_name("whole")))


class Exploding(FakeModel):
    def activations(self, tokens, hook_name):
        return super().activations(tokens, hook_name).masked_fill((tokens == 13 * 16 + 7)[..., None], torch.inf)


def test_nan_or_inf_is_not_stored(tmp_path, small_shards):
    with pytest.raises(ValueError, match="gave NaN or Inf for context 13"):
        make(tmp_path, model=Exploding())
    assert [crc is not None for crc in shards.read_index(tmp_path).shards] == [True] * 3 + [False] * 7


def test_wrong_dtype(tmp_path):
    with pytest.raises(ValueError, match="dtype: got 'int8'; wanted one of bf16, fp32"):
        make(tmp_path, dtype="int8")
