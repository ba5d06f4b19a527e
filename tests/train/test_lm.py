"""Training a language model: exact resume after any stop, one run per folder, clear errors on bad input."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model

from monosem.data import files
from monosem.data.corpus import Corpus
from monosem.data.folder_lock import folder_lock
from monosem.data.language_model import LMConfig, Transformer, next_token_loss
from monosem.data.lm_eval import held_out_loss
from monosem.data.models import load_model
from monosem.data.text import Document
from monosem.data.tokenizer import encode_documents
from monosem.train import lm

CONFIG = lm.LMTrainConfig(epochs=1.5, batch_contexts=4, seed=3, checkpoint_every=20, warmup_steps=10)
SHAPE = LMConfig(d_vocab=300, n_ctx=32, d_model=16, n_heads=2, d_mlp=32)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    chooser, words = random.Random(0), ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    rows = [{"source": "ab"[i % 2], "text": " ".join(chooser.choices(words, k=40))} for i in range(200)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """A run without interruption."""
    out = tmp_path_factory.mktemp("whole")
    lm.train_lm(text, out, CONFIG, SHAPE, progress=False)
    return out


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def last_checkpoint(folder):
    newest = max(folder.glob("ckpt-*"), key=lambda p: int(p.name[5:]))
    return newest.name, load_file(newest / "tensors.safetensors")


def assert_same_run(a, b):
    (name_a, tensors_a), (name_b, tensors_b) = last_checkpoint(a), last_checkpoint(b)
    assert name_a == name_b and tensors_a.keys() == tensors_b.keys()
    for key, tensor in tensors_a.items():
        assert torch.equal(tensor, tensors_b[key]), key
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    assert metrics(a) == metrics(b)


def test_a_run_learns_and_can_be_loaded(whole):
    rows = metrics(whole)
    assert [r["step"] for r in rows] == [50, 94] and rows[-1]["tokens"] == 94 * 4 * 32
    assert rows[-1]["loss"] < rows[0]["loss"] < math.log(300)
    model = load_model(whole)
    assert model.d_vocab == 300 and set(model.decode(model.generate([], 20)[1:]).split()) & {"fox", "dog", "the"}
    assert sorted(p.name for p in whole.iterdir()) == [
        "ckpt-80",
        "ckpt-94",
        "config.json",
        "corpus.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "tokens.npy",
    ]


def test_stopped_by_ctrl_c_and_resumed(text, whole, tmp_path, monkeypatch, capsys):
    one_step = lm._Run._one_step

    def interrupted(run, slices):
        one_step(run, slices)
        if run.step in (33, 71):  # between checkpoints and between rows of metrics
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(lm._Run, "_one_step", interrupted)
    for step in (33, 71):
        with pytest.raises(KeyboardInterrupt):
            lm.train_lm(text, tmp_path, CONFIG, SHAPE, progress=False)
        assert f"stopped after step {step} of 94, saved; the same command resumes" in capsys.readouterr().err
        assert last_checkpoint(tmp_path)[0] == f"ckpt-{step}" and not (tmp_path / "model.safetensors").exists()
    lm.train_lm(text, tmp_path, CONFIG, SHAPE, progress=False)
    assert_same_run(tmp_path, whole)


KILLED = """
import sys, time
from pathlib import Path
from monosem.train import lm
sys.path.insert(0, sys.argv[3])
from test_lm import CONFIG, SHAPE
one_step = lm._Run._one_step
def slow(run, slices):
    one_step(run, slices)
    if run.step == 65:
        print("there", flush=True)
        time.sleep(60)
lm._Run._one_step = slow
lm.train_lm(Path(sys.argv[1]), Path(sys.argv[2]), CONFIG, SHAPE, progress=False)
"""


def test_killed_and_resumed(text, whole, tmp_path):
    folders = [os.path.dirname(__file__), *(p for p in sys.path if p)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    command = [sys.executable, "-c", KILLED, text, tmp_path, os.path.dirname(__file__)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert child.stdout.readline() == "there\n"
        with pytest.raises(RuntimeError, match=f"process {child.pid} on "):  # two runs, one folder
            lm.train_lm(text, tmp_path, CONFIG, SHAPE, progress=False)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert last_checkpoint(tmp_path)[0] == "ckpt-60"
    with (tmp_path / "metrics.jsonl").open("a") as out:
        out.write('{"step": 63, "loss": 1.0}\n{"step": 64, "lo')  # what a kill can leave
    lm.train_lm(text, tmp_path, CONFIG, SHAPE, progress=False)
    assert_same_run(tmp_path, whole)


def test_resumed_from_an_earlier_checkpoint(text, whole, tmp_path):
    lm.train_lm(text, tmp_path, CONFIG, SHAPE, progress=False)
    lm.train_lm(text, tmp_path, CONFIG, SHAPE, resume_from=80, progress=False)
    assert_same_run(tmp_path, whole)
    with pytest.raises(FileNotFoundError, match="checkpoints there are of the steps 80, 94"):
        lm.train_lm(text, tmp_path, CONFIG, SHAPE, resume_from=60, progress=False)


def test_a_finished_run_called_again_changes_nothing(text, whole):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    lm.train_lm(text, whole, CONFIG, SHAPE, progress=False)
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before


def test_other_configuration_or_text_is_refused(text, whole, tmp_path):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"other training \(lr was 0.003, now 0.001\); wanted the same"):
        lm.train_lm(text, whole, lm.LMTrainConfig(**{**CONFIG.__dict__, "lr": 1e-3}), SHAPE, progress=False)
    with pytest.raises(ValueError, match=r"other training \(head_dtype was 'float32', now 'bfloat16'\)"):
        lm.train_lm(
            text, whole, lm.LMTrainConfig(**{**CONFIG.__dict__, "head_dtype": "bfloat16"}), SHAPE, progress=False
        )
    with pytest.raises(ValueError, match=r"other training \(d_mlp was 32, now 48\)"):
        lm.train_lm(text, whole, CONFIG, LMConfig(**{**SHAPE.__dict__, "d_mlp": 48}), progress=False)
    other = tmp_path / "other.jsonl"
    other.write_text(text.read_text().replace("fox", "cat"))
    with pytest.raises(ValueError, match=r"holds tokens made with other settings \(different: text\)"):
        lm.train_lm(other, whole, CONFIG, SHAPE, progress=False)
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before


def test_damaged_checkpoint_is_named(text, tmp_path):
    lm.train_lm(text, tmp_path, CONFIG, SHAPE, progress=False)
    path = tmp_path / "ckpt-94" / "tensors.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"ckpt-94' is damaged: .*resume=80"):
        lm.train_lm(text, tmp_path, CONFIG, SHAPE, progress=False)


def test_shared_cache(text, whole, tmp_path):
    """Two seeds on one text: tokenized once, by a tokenizer given or trained."""
    for seed in (3, 4):
        config = lm.LMTrainConfig(**{**CONFIG.__dict__, "seed": seed})
        lm.train_lm(text, tmp_path / str(seed), config, SHAPE, cache=tmp_path / "cache", progress=False)
    a, b = tmp_path / "3" / "model.safetensors", tmp_path / "4" / "model.safetensors"
    assert a.read_bytes() == (whole / "model.safetensors").read_bytes() != b.read_bytes()
    given = tmp_path / "cache" / "tokenizer.json"
    lm.train_lm(text, tmp_path / "given", CONFIG, SHAPE, tokenizer=given, progress=False)
    assert (tmp_path / "given" / "model.safetensors").read_bytes() == a.read_bytes()
    with folder_lock(tmp_path / "cache"), pytest.raises(RuntimeError, match="is being written to by process"):
        lm.train_lm(text, tmp_path / "late", CONFIG, SHAPE, cache=tmp_path / "cache", progress=False)


def test_diverging_run_stops_before_weights_move(text, tmp_path):
    with pytest.raises(ValueError, match=r"loss: \S+ with a gradient of norm \S+ at step \d+; wanted finite numbers"):
        lm.train_lm(text, tmp_path, lm.LMTrainConfig(epochs=1, batch_contexts=4, lr=1e30), SHAPE, progress=False)
    assert not (tmp_path / "model.safetensors").exists()


def test_bad_input(text, tmp_path):
    with pytest.raises(ValueError, match="lr: got 0; wanted more than 0"):
        lm.LMTrainConfig(lr=0)
    with pytest.raises(ValueError, match="head_dtype: got 'fp8'; wanted one of float32, bfloat16"):
        lm.LMTrainConfig(head_dtype="fp8")
    with pytest.raises(FileNotFoundError, match="text: no file"):
        lm.train_lm(tmp_path / "none.jsonl", tmp_path / "a", CONFIG, SHAPE, progress=False)
    with pytest.raises(FileNotFoundError, match="tokenizer: no file"):
        lm.train_lm(text, tmp_path / "a", CONFIG, SHAPE, tokenizer=tmp_path / "no.json", progress=False)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="holds no document"):
        lm.train_lm(tmp_path / "empty.jsonl", tmp_path / "b", CONFIG, SHAPE, progress=False)
    (tmp_path / "short.jsonl").write_text('{"text": "hello"}\n')
    with pytest.raises(ValueError, match=r"text: it makes 0 contexts .*at least batch_contexts=4"):
        lm.train_lm(tmp_path / "short.jsonl", tmp_path / "c", CONFIG, SHAPE, progress=False)
    (tmp_path / "t.json").write_text(tiny_model().tokenizer.to_str())
    with pytest.raises(ValueError, match=r"has 300 entries, the model d_vocab=280"):
        shape = LMConfig(**{**SHAPE.__dict__, "d_vocab": 280})
        lm.train_lm(text, tmp_path / "d", CONFIG, shape, tokenizer=tmp_path / "t.json", progress=False)


def test_every_row_is_read_once_per_epoch():
    rows = np.arange(50)[:, None]
    config = lm.LMTrainConfig(batch_contexts=7, seed=5)
    read = torch.cat([lm.batch_rows(rows, config, step) for step in range(15)]).flatten()[:100].tolist()
    assert sorted(read[:50]) == sorted(read[50:]) == list(range(50)) and read[:50] != read[50:]
    assert not torch.equal(lm.batch_rows(rows, config, 0), lm.batch_rows(rows, lm.LMTrainConfig(batch_contexts=7), 0))


def test_learning_rate():
    config = lm.LMTrainConfig(lr=1.0, warmup_steps=4)
    rates = [lm.learning_rate(config, step, 104) for step in range(105)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and rates[54] == pytest.approx(0.5) and rates[104] == 0
    assert all(a >= b for a, b in pairwise(rates[4:]))


def test_loss_and_its_gradient_are_cross_entropy():
    model = Transformer(SHAPE).init_weights(0)
    rows = torch.randint(0, 300, (5, 33), generator=torch.Generator().manual_seed(0))
    loss = next_token_loss(model, rows)
    loss.backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    expected = torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for (name, p), grad in zip(model.named_parameters(), ours, strict=True):
        torch.testing.assert_close(grad, p.grad, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_held_out_loss():
    model = tiny_model()
    documents = [Document("a", "the quick brown fox " * n) for n in (1, 3, 9)] + [
        Document("b", "שלום עולם"),
        Document("c", ""),
    ]
    got = held_out_loss(model, documents)
    assert list(got) == ["a", "b", "all"]
    nats = tokens = 0
    for ids in encode_documents(model.tokenizer, documents[:3]):
        for start in range(1, len(ids), 31):
            window = torch.tensor([0, *ids[start : start + 31]])[None]
            logp = model.module(window[:, :-1])[0].log_softmax(-1)
            nats -= float(logp.detach().gather(1, window[0, 1:, None]).sum())
            tokens += window.shape[1] - 1
    size = sum(len(d.text.encode()) for d in documents[:3])
    assert got["a"]["tokens"] == tokens and got["a"]["bytes"] == size
    assert got["a"]["nats_per_token"] == pytest.approx(nats / tokens, rel=1e-5)
    assert got["a"]["bits_per_byte"] == pytest.approx(nats / size / math.log(2), rel=1e-5)
    assert got["all"]["tokens"] == got["a"]["tokens"] + got["b"]["tokens"]


def test_an_incomplete_corpus_is_made_again(text, tmp_path):
    corpus = Corpus(text, tmp_path, SHAPE, 0.02)
    expected = np.array(corpus.rows)
    (tmp_path / "corpus.json").unlink()  # written last: without it the rest counts for nothing
    files.write_array(tmp_path / "tokens.npy", np.zeros((3, 33), np.uint16))
    assert np.array_equal(Corpus(text, tmp_path, SHAPE, 0.02).rows, expected)
    began = time.monotonic()
    Corpus(text, tmp_path, SHAPE, 0.02)
    assert time.monotonic() - began < 5
