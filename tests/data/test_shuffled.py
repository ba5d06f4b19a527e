"""Shuffled batches of a stream: every token once per epoch, contexts mixed, exact position."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from fake_model import HOOK, FakeModel, numbered, token_of

from monosem.data import harvest
from monosem.data.harvest import ActivationStream
from monosem.ops import memory

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
        (37, {"skip_positions": 0, "skip_tokens": ()}),
        (37, {"skip_positions": 15}),
        (7, {"epochs": 3, "batch_size": 64, "dtype": torch.bfloat16}),
    ],
)
def test_each_token_once_per_epoch(rows, options):
    skip, epochs = options.get("skip_positions", 1), options.get("epochs", 1)
    source = stream(rows, **options)
    batches = list(source)
    assert all(len(b) == source.batch_size for b in batches[:-1])
    assert {b.dtype for b in batches} == {options.get("dtype", torch.float32)}
    expected = numbered(rows)[:, skip:].flatten()
    assert source.n_tokens == len(expected)
    for epoch in token_of(torch.cat(batches)).view(epochs, -1):
        assert torch.equal(epoch.sort().values, expected)


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


def test_windows_of_an_epoch_have_equal_size():
    source = stream(21, buffer_contexts=10)
    assert np.diff(source._bounds).tolist() == [7, 7, 7]


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
        for expected in uninterrupted[done : done + 3]:
            assert torch.equal(next(rest), expected)
        next(batches)


def test_integers_of_numpy_are_integers():
    options = {"batch_size": np.int64(50), "seed": np.int32(0), "skip_positions": np.int64(1), "epochs": np.int8(1)}
    state = json.loads(json.dumps(stream(**options).state_dict()))
    assert state == stream().state_dict()


def test_resume_at_the_end():
    running = stream()
    for _ in running:
        last = running.state_dict()
    resumed, after = stream(), stream()
    resumed.load_state_dict(last)
    assert list(resumed) == []
    after.load_state_dict(running.state_dict())  # saved after the loop: the next loop is the next epoch
    assert torch.equal(torch.cat(list(after)), torch.cat(list(running)))


def test_an_iterator_continues_at_a_loaded_position():
    whole, running = list(stream(epochs=2)), stream(epochs=2)
    batches = iter(running)
    start = running.state_dict()
    for _ in range(5):
        next(batches)
    running.load_state_dict(start)
    assert all(map(torch.equal, batches, whole))


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
    "other, message",
    [
        ({"seed": 1}, "seed: 1 there, 0 here"),
        ({"batch_size": 51}, "batch_size: 51 there, 50 here"),
        ({"rows": 38}, "rows: 38 there, 37 here; tokens_crc32"),
        ({"dtype": torch.bfloat16}, "dtype"),
    ],
)
def test_position_of_another_stream_is_refused(other, message):
    source = stream()
    with pytest.raises(ValueError, match=message):
        source.load_state_dict(stream(**other).state_dict())
    assert source.state_dict()["position"] == 0
    with pytest.raises(ValueError, match="without 'position'"):
        source.load_state_dict({"step": 3})


def test_an_error_in_the_model_loses_nothing():
    model = FakeModel()
    source, whole = stream(model=model), torch.cat(list(stream()))
    first = next(iter(source))
    expected, model.activations = model.activations, lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(source)
    model.activations = expected
    handed_out = source.state_dict()["position"]
    assert torch.equal(first, whole[:50])
    assert torch.equal(torch.cat(list(source)), whole[handed_out:])


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"batch_size": 0}, "batch_size: got 0; wanted an integer ≥ 1"),
        ({"seed": -1}, "seed: got -1"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"buffer_contexts": 0}, "buffer_contexts: got 0"),
        ({"dtype": torch.int64}, "dtype: got torch.int64"),
    ],
)
def test_bad_options(bad, message):
    with pytest.raises(ValueError, match=message):
        stream(**bad)


def test_a_buffer_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2000)
    with pytest.raises(ValueError, match=r"buffer_contexts: 150 activations of width 5 need 3 kB of memory.* has 2 kB"):
        stream(30)


def test_the_default_buffer_is_bounded_in_bytes(monkeypatch):
    assert harvest.default_buffer(2**19, torch.device("cpu")) == 1024  # 512 KiB per context: 512 MiB
    monkeypatch.setattr(harvest, "available_memory", lambda: 2**40)
    assert harvest.default_buffer(2**23, torch.device("cpu")) == 128  # 8 MiB per context: 1 GiB
    monkeypatch.setattr(harvest, "available_memory", lambda: 2**30)
    assert harvest.default_buffer(2**23, torch.device("cpu")) == 32  # a quarter of what is free
    assert harvest.default_buffer(2**40, torch.device("cpu")) == 1


def test_a_loaded_position_sets_a_default_buffer(monkeypatch):
    whole = list(ActivationStream(FakeModel(), HOOK, numbered(37), 50, buffer_contexts=10, epochs=1))
    saved = ActivationStream(FakeModel(), HOOK, numbered(37), 50, buffer_contexts=10, epochs=1)
    first = next(iter(saved))
    resumed = ActivationStream(FakeModel(), HOOK, numbered(37), 50, epochs=1)
    resumed.load_state_dict(saved.state_dict())
    assert torch.equal(torch.cat([first, *resumed]), torch.cat(whole))


def test_filling_the_buffer_shows_a_progress_bar(capsys):
    # 20 passes, a second: longer than the time between two drawings of the bar.
    source = ActivationStream(FakeModel(delay=0.05), HOOK, numbered(320), 50, epochs=1)
    source.progress, source._bar_delay = True, 0.0
    next(iter(source))
    output = capsys.readouterr().err
    assert "running the model to fill the shuffle buffer" in output and "tok" in output and "/4.80k" in output
