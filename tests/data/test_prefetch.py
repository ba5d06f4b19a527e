"""The next window brought into memory by a thread: the same batches, positions and errors as without."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from fake_model import HOOK, FakeModel, numbered
from hf_families import TOKENS, random_model
from tiny import HOOK as TINY_HOOK
from tiny import TEXTS, tiny_model

import monosem as ms
from monosem.cli.main import main
from monosem.data import filled
from monosem.data.ahead import Ahead
from monosem.data.filled import FillingStopped, read_by
from monosem.data.harvest import harvest
from monosem.data.native import save_folder

OTHER = torch.device("meta")  # no device of activations here


def running():
    return [thread for thread in threading.enumerate() if thread.name == "monosem prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not running()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A store of 80 contexts, and a text of two files."""
    folder = tmp_path_factory.mktemp("places")
    harvest(FakeModel(), HOOK, numbered(80), folder / "store", "fp32", progress=False)
    for i in range(2):
        lines = [json.dumps({"text": f"{text} {i} {j}"}) for j in range(20) for text in TEXTS.values()]
        (folder / f"{i}.jsonl").write_text("\n".join(lines))
    return folder


def stream(prefetch=True, model=None, **options):
    options = {"batch_size": 50, "buffer_contexts": 10, "epochs": 2} | options
    return ms.ActivationStream(model or FakeModel(), HOOK, numbered(37), prefetch=prefetch, **options)


def store(places, prefetch):
    source = ms.ActivationStore(places / "store", 50, epochs=2, prefetch=prefetch)
    source._cut(min(3, len(source._lengths)))
    return source


def text(places, prefetch):
    model, options = tiny_model(), {"epochs": 2, "buffer_contexts": 8}
    return ms.StreamedActivations(model, TINY_HOOK, str(places / "*.jsonl"), 64, prefetch=prefetch, **options)


SOURCES = {
    "stream": lambda places, prefetch: stream(prefetch),
    "short batches": lambda places, prefetch: stream(prefetch, batch_size=7),
    "batches beyond a window": lambda places, prefetch: stream(prefetch, batch_size=400),
    "one window": lambda places, prefetch: stream(prefetch, buffer_contexts=1000),
    "limit": lambda places, prefetch: stream(prefetch, skip_norm=1.2),
    "several hooks": lambda places, prefetch: ms.ActivationStream(
        FakeModel(), FakeModel.hook_names, numbered(37), 50, epochs=2, buffer_contexts=10, prefetch=prefetch
    ),
    "store": store,
    "text": text,
}


@pytest.mark.parametrize("name", SOURCES)
def test_batches_and_positions_are_those_without_it(places, name):
    plain, ahead = SOURCES[name](places, False), SOURCES[name](places, True)
    for _ in range(2):  # a pass, and the next
        for a, b in zip(plain, ahead, strict=True):
            assert torch.equal(a, b) and plain.state_dict() == ahead.state_dict()
            assert json.loads(json.dumps(ahead.state_dict())) == ahead.state_dict()
    assert plain.left_out == ahead.left_out and (plain.left_out > 0) == (name == "limit")


@pytest.mark.parametrize("name", ["stream", "limit", "store", "text"])
def test_any_position_resumes_bitwise_with_or_without_it(places, name):
    source, batches, states = SOURCES[name](places, True), [], []
    for batch in source:
        batches.append(batch)
        states.append(source.state_dict())
    jumping = SOURCES[name](places, True)
    for at in (0, len(batches) - 2, 3, len(batches) // 2):
        fresh = SOURCES[name](places, at % 2 == 0)
        jumping.load_state_dict(states[at])  # while the window behind another position is on its way
        fresh.load_state_dict(states[at])
        for expected, here, there in zip(batches[at + 1 : at + 6], fresh, jumping, strict=False):
            assert torch.equal(expected, here) and torch.equal(expected, there)
        fresh.stop_prefetch()
    jumping.stop_prefetch()


class Gate(FakeModel):
    """A model whose forward passes from number ``closed`` on wait until ``open`` is set."""

    def __init__(self, closed):
        super().__init__()
        self.closed, self.reached, self.open = closed, threading.Event(), threading.Event()

    def activations(self, tokens, hook_name):
        if self.forwards >= self.closed:
            self.reached.set()
            assert self.open.wait(20)
        return super().activations(tokens, hook_name)


def test_the_model_runs_while_batches_are_taken_and_one_window_ahead_only():
    model = Gate(closed=2)  # the first pass asks for the width, the second fills the first window
    source = stream(model=model, forward_contexts=10)
    batches = iter(source)
    assert len(next(batches)) == 50 and model.reached.wait(20)  # of the second window, while the first is read
    assert len(next(batches)) == 50
    model.open.set()
    assert source._ahead[1].wait(20)
    time.sleep(0.05)
    assert model.forwards == 3 and not running()
    assert sum(m.nbytes for m in source._memory) == 2 * source._buffer.nbytes
    list(batches)


@pytest.mark.parametrize("at", [1, 6, 8])
def test_an_error_of_the_thread_reaches_the_caller_where_it_would_without(at):
    class Broken(FakeModel):
        broken = True

        def activations(self, tokens, hook_name):
            if self.broken and self.forwards == at:
                raise ArithmeticError(f"pass {at}")
            return super().activations(tokens, hook_name)

    seen = {}
    for prefetch in (False, True):
        model = Broken()
        source, got = stream(prefetch, model, forward_contexts=5, epochs=1), []
        with pytest.raises(ArithmeticError, match=f"pass {at}") as raised:
            for batch in source:
                got.append(batch)
        assert "activations" in [entry.name for entry in raised.traceback]  # where it happened
        state = source.state_dict()
        model.broken = False
        seen[prefetch] = (len(got), state, torch.cat([*got, *source]))
    assert seen[True][:2] == seen[False][:2]
    assert torch.equal(seen[True][2], torch.cat(list(stream(False, epochs=1))))


def test_a_stop_and_ctrl_c_end_the_thread_and_leave_the_position():
    plain = torch.cat(list(stream(False)))
    for error in (FillingStopped, KeyboardInterrupt):
        model = Gate(closed=2)
        source = stream(model=model, forward_contexts=10)
        batches = [next(iter(source))]

        def stopping(error=error, model=model):
            if not model.reached.is_set():
                return False
            model.open.set()
            if error is KeyboardInterrupt:
                raise KeyboardInterrupt
            return True

        source.stopping = stopping
        with pytest.raises(error):
            batches += iter(source)  # until the second window is awaited
        assert not running() and source._ahead is None and model.forwards <= 4
        source.stopping = None
        assert torch.equal(torch.cat([*batches, *source]), plain)


EXIT = """
import sys, time
from fake_model import HOOK, FakeModel, numbered
from monosem.data.harvest import ActivationStream
model = FakeModel()
source = ActivationStream(model, HOOK, numbered(4000), 50, buffer_contexts=2000, forward_contexts=1, prefetch=True)
next(iter(source))
model.delay = 0.1  # a window of 200 seconds
time.sleep(0.1)
print("end", flush=True)
if sys.argv[1:]:
    raise RuntimeError("on the way")
"""


@pytest.mark.parametrize("error", [[], ["error"]])
def test_a_program_ends_without_waiting_for_the_window(error):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", EXIT, *error], stdout=-1, stderr=-1, text=True, env=env) as child:
        assert child.stdout.readline() == "end\n"
        _, shown = child.communicate(timeout=100)
    assert child.returncode == len(error) and ("on the way" in shown) == bool(error) and "Cancelled" not in shown


def test_the_default_is_another_device_and_room_for_it(monkeypatch):
    source = stream(None)
    assert not source._prefetches()  # nobody says where the dictionary is
    for device, expected in ((torch.device("cpu"), False), (OTHER, True)):
        with read_by(device, source, progress=False):
            assert source._prefetches() is expected
    with read_by(OTHER, source, progress=False):
        next(iter(source))
        assert source._ahead is not None
    assert source._ahead is None  # nobody reads it any more
    never = stream(False)
    with read_by(OTHER, never, progress=False):
        assert not never._prefetches()
    monkeypatch.setattr(filled, "available_memory", lambda: 1000)
    fresh, asked = stream(None), stream(True)
    fresh.consumer = OTHER
    next(iter(fresh))
    assert fresh._ahead is None
    with pytest.raises(
        ValueError,
        match=r"prefetch: got True; a second window needs 2.\d+ kB, and 1 kB of memory are left; wanted room for both. "
        "Choose a smaller buffer_contexts, or leave prefetch out",
    ):
        next(iter(asked))
    with pytest.raises(ValueError, match="prefetch: got 'yes'; wanted True, False or None"):
        stream("yes")


def test_the_roundings_of_a_model_do_not_depend_on_the_timing():
    """A training step makes products of fp32 in fp32, in the whole process, whatever the caller lets them be."""
    source = stream(True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ValueError, match=r"prefetch: got True while .*is 'bf16'; .*wanted full precision"):
            next(iter(source))
        fresh = stream(None)
        fresh.consumer = OTHER
        next(iter(fresh))
        assert fresh._ahead is None
    finally:
        torch.set_float32_matmul_precision(before)


def test_settings_of_a_thread_are_the_callers():
    seen = []
    x = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))

    def work(advanced):
        seen.append((torch.get_num_threads(), torch.is_autocast_enabled("cpu")))
        return x @ x

    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for enabled in (False, True):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                    assert torch.equal(Ahead(work, torch.device("cpu")).take(), x @ x)
                assert seen[-1] == (threads, enabled)
        finally:
            torch.set_num_threads(before)


def test_a_model_is_read_by_two_threads_at_once():
    pytest.importorskip("transformers", reason="transformers is not installed (pip install 'monosem[hf]')")
    model = ms.load_model(random_model("Llama"))
    hooks = ["model.layers.0", "model.layers.1.mlp"]
    expected = {hook: model.activations(TOKENS, hook) for hook in hooks}

    def read(hook):
        return lambda _: [torch.equal(model.activations(TOKENS, hook), expected[hook]) for _ in range(20)]

    readers = [Ahead(read(hook), torch.device("cpu")) for hook in hooks]
    assert all(all(reader.take()) for reader in readers)


def test_a_run_has_the_same_weights_with_it(places, tmp_path, capsys):
    own = tiny_model()
    save_folder(tmp_path / "model", own.module, own.tokenizer)
    train = ["train", "--model", str(tmp_path / "model"), "--text", str(places / "*.jsonl"), "--quiet", "--k", "4"]
    train += ["--d-sae", "40", "--batch-size", "64", "--steps", "60", "--checkpoint-every", "1000"]
    for stream in ([], ["--stream"]):
        weights = []
        for prefetch in ([], ["--prefetch"]):
            out = tmp_path / f"{len(stream)}{len(prefetch)}"
            assert main([*train, *stream, *prefetch, "--out", str(out)]) == 0
            weights.append(ms.load(out).state_dict())
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert "prefetch: true" in (out / "run.yaml").read_text()
