"""Checkpoints are atomic and verified; a resumed run equals, bit for bit, one that never stopped."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import monosem as ms
from monosem.train import checkpoint
from monosem.train.checkpoint import Checkpoint

STEPS = 40
# One run that uses everything with a state: both kinds, resampling, AuxK, EMA, clipping, schedules.
RUN = f"""
    import random, sys, time
    import numpy as np
    import torch
    import monosem as ms
    from monosem.data.synthetic import SyntheticDictionary

    def trainer(folder):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        plan = ms.ResampleConfig(at_steps=(10, 20, 30), window=8, n_inputs=150)
        cfg = [
            ms.TrainConfig(lr=3e-3, batch_size=64, steps={STEPS}, log_every=1, checkpoint_every=3, dead_after=200,
                           resample=plan, ema=0.9, clip=clip, sparsity_warmup=5, seed=3)
            for clip in (0.05, None)
        ]
        saes = [ms.TopKSAE(16, 48, k=4, seed=1), ms.ReLUSAE(16, 48, 2e-2, seed=2)]
        with torch.no_grad():
            for sae in saes:
                sae.b_enc[:9] = -100.0  # some neurons to resample
        return ms.Trainer(saes, cfg, folder, progress=False)

    class Slow(SyntheticDictionary):
        def batch(self, number):
            time.sleep(0.01)
            return super().batch(number)

    if len(sys.argv) > 1:
        trainer(sys.argv[1]).fit(Slow(16, 32, 3, batch_size=64))
"""
TIMES = ("tokens_per_second", "seconds")


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def state(folder, step):
    """All tensors of a checkpoint, and its JSON without times."""
    loaded = checkpoint.load(folder, step)
    return loaded.tensors, {k: v for k, v in loaded.state.items() if k != "seconds"}


def test_killed_at_a_random_step_and_resumed_bitwise(tmp_path):
    source = textwrap.dedent(RUN)
    command = [sys.executable, "-c", source, str(tmp_path / "killed")]
    kill_at, metrics = random.randrange(1, STEPS - 2), tmp_path / "killed" / "metrics.jsonl"
    process = subprocess.Popen(command, env=os.environ)
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") >= kill_at) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, f"it ended before it was killed at step {kill_at}"
    assert not (tmp_path / "killed" / "sae.safetensors").exists()
    assert subprocess.run(command, env=os.environ, timeout=300).returncode == 0

    scope = {"__name__": "run"}
    argv, sys.argv = sys.argv, ["run"]
    try:
        exec(source, scope)
    finally:
        sys.argv = argv
    trainer = scope["trainer"](tmp_path / "whole").fit(scope["Slow"](16, 32, 3, batch_size=64))
    assert [learner.resampled >= 9 for learner in trainer.learners] == [True, True]
    (tensors, rest), (expected, expected_rest) = (state(tmp_path / name, STEPS) for name in ("killed", "whole"))
    assert tensors.keys() == expected.keys() and len(tensors) > 40
    for name, value in expected.items():
        assert value.dtype == tensors[name].dtype and torch.equal(value, tensors[name]), f"{name}, killed at {kill_at}"
    assert rest == expected_rest, f"killed at {kill_at}"
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "killed")] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_a_source_without_state_is_read_again_and_skipped(make, config, source, weights, tmp_path, kind):
    """The global random numbers, on which such a source may depend, are restored too."""

    def noisy():
        for x in source(batches=12):
            yield x + 0.01 * torch.randn(x.shape) + 0.01 * float(np.random.rand()) + 0.01 * random.random()

    def seeded():
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)

    whole, cut = make(kind), make(kind)
    seeded()
    ms.Trainer(whole, config(), progress=False).fit(noisy())
    seeded()
    ms.Trainer(make(kind), config(), tmp_path, progress=False).fit(noisy())
    shutil.rmtree(tmp_path / "ckpt-12")
    torch.manual_seed(99)  # a new process would have other numbers, until the checkpoint's are restored
    np.random.seed(99)
    random.seed(99)
    ms.Trainer(cut, config(), tmp_path, progress=False).fit(noisy())
    assert torch.equal(weights(cut), weights(whole))


def test_the_last_two_checkpoints_are_kept_and_incomplete_ones_removed(make, config, source, tmp_path):
    (tmp_path / ".ckpt-3.part").mkdir()
    ms.Trainer(make("topk"), config(steps=14), tmp_path, progress=False).fit(source())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cfg.json",
        "ckpt-12",
        "ckpt-14",
        "metrics.jsonl",
        "sae.safetensors",
    ]


def test_a_finished_run_is_not_changed(make, config, source, weights, tmp_path):
    trainer = ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(source())
    again = ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(source())
    assert torch.equal(weights(trainer.learners[0].sae), weights(again.learners[0].sae))
    assert again.steps_done == 12 and len(rows(tmp_path)) == 3


def damage(path, how):
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "altered":
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut", "altered", "missing"])
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_an_error_and_an_earlier_one_needs_resume(
    make, config, source, weights, tmp_path, name, how
):
    whole = make("relu")
    ms.Trainer(whole, config(steps=10), tmp_path, progress=False).fit(source())
    damage(tmp_path / "ckpt-10" / name, how)
    with pytest.raises(ValueError, match=re.escape("ckpt-10' is damaged: ") + r".*resume=8 \(--resume-from 8\)"):
        ms.Trainer(make("relu"), config(steps=10), tmp_path, progress=False).fit(source())
    assert (tmp_path / "ckpt-8").is_dir() and (tmp_path / "ckpt-10").is_dir()  # as they were
    sae = make("relu")
    ms.Trainer(sae, config(steps=10), tmp_path, progress=False).fit(source(), resume=8)
    assert torch.equal(weights(sae), weights(whole)) and (tmp_path / "discarded-ckpt-10").is_dir()
    checkpoint.load(tmp_path, 10)
    assert [row["step"] for row in rows(tmp_path)] == [5, 10]


def test_a_missing_checkpoint_is_an_error(make, config, source, tmp_path):
    with pytest.raises(FileNotFoundError, match="ckpt-3' does not exist; checkpoints there are of the steps none"):
        ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(source(), resume=3)
    with pytest.raises(ValueError, match="wanted a folder to resume from"):
        ms.Trainer(make("topk"), config(), progress=False).fit(source(), resume=3)


def test_a_folder_of_another_run_is_refused(make, config, source, tmp_path):
    ms.Trainer(make("topk"), config(steps=4), tmp_path, progress=False).fit(source())
    with pytest.raises(ValueError, match=r"holds another run: train.lr is 0\.001 there and 0\.5 here"):
        ms.Trainer(make("topk"), config(steps=4, lr=0.5), tmp_path, progress=False).fit(source())
    with pytest.raises(ValueError, match=r"sae\.kind is 'topk' there and 'relu' here"):
        ms.Trainer(make("relu"), config(steps=4), tmp_path, progress=False).fit(source())
    with pytest.raises(ValueError, match="holds a run of 1 autoencoders, this one has 2"):
        ms.Trainer([make("relu"), make("topk")], config(steps=4), tmp_path, progress=False).fit(source())
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        ms.Trainer(make("topk"), config(steps=4), tmp_path, progress=False).fit(source(seed=1))
    with pytest.raises(ValueError, match="holds a run of 4 steps already"):
        ms.Trainer(make("topk"), config(steps=4), tmp_path, progress=False).fit(source(), resume=False)
    with pytest.raises(ValueError, match="saved with a source state, this source has no state_dict"):
        ms.Trainer(make("topk"), config(steps=4), tmp_path, progress=False).fit([])


def test_a_checkpoint_without_later_fields_loads(make, config, source, weights, tmp_path):
    """Fields that older versions did not save have the only value of that time; buffers start anew."""
    whole, cut = make("relu"), make("relu")
    ms.Trainer(whole, config(), progress=False).fit(source())
    with pytest.warns(RuntimeWarning, match="ended after 8"):
        ms.Trainer(make("relu"), config(), tmp_path, progress=False).fit(source(batches=8))
    saved = checkpoint.load(tmp_path, 8)
    for name in ("adam_state", "lazy_rows"):
        del saved.state["run"][0]["train"][name]
    assert saved.tensors["0.adam.buffer.density"].numel() == 1  # files keep the name that it had at first
    del saved.tensors["0.adam.buffer.recent"]
    checkpoint.save(tmp_path, saved)
    with pytest.raises(ValueError, match="lazy_rows is False there and True here"):
        ms.Trainer(make("relu"), config(lazy_rows=True), tmp_path, progress=False).fit(source())
    ms.Trainer(cut, config(), tmp_path, progress=False).fit(source())
    assert torch.equal(weights(whole), weights(cut))


def test_a_source_shorter_than_the_run_is_refused(make, config, source, tmp_path):
    batches = list(source(batches=12))
    ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(batches)
    with pytest.raises(ValueError, match="ended after 5 batches, while skipping the 12"):
        ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(batches[:5])


def test_a_run_that_diverged_does_not_replace_good_checkpoints(make, config, source, tmp_path):
    def batches():
        yield from source(batches=6)
        while True:
            yield torch.full((8, 16), 3e37)

    with pytest.raises(ValueError, match=r"diverged.*the last good checkpoint is of step 4"):
        ms.Trainer(make("relu"), config(log_every=100), tmp_path, progress=False).fit(batches())
    assert checkpoint.saved_steps(tmp_path) == [4]
    assert all(torch.isfinite(t).all() for t in load_file(tmp_path / "ckpt-4" / "tensors.safetensors").values())


@pytest.mark.parametrize("floats, characters", [(100_000, 0), (10, 100_000)])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, floats, characters):
    """A limit on the size of a file makes the write fail half-way, as a full disk does: of the tensors, of the JSON."""
    checkpoint.save(tmp_path, Checkpoint(1, {"w": torch.zeros(3)}, {}))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"could not write the checkpoint .*ckpt-2.* are untouched \(ckpt-1\)"):
            checkpoint.save(tmp_path, Checkpoint(2, {"w": torch.ones(floats)}, {"pad": "x" * characters}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt-1"]


def test_an_unknown_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save(tmp_path, Checkpoint(1, {"w": torch.zeros(3)}, {}))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has the format 2, this version reads format 1"):
        checkpoint.load(tmp_path, 1)


def test_state_that_is_not_json_is_refused(make, config, source, tmp_path):
    stream = source()
    stream.state_dict = lambda: {"position": torch.ones(2)}
    with pytest.raises(TypeError, match="JSON"):
        ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(stream)
    assert checkpoint.saved_steps(tmp_path) == [] and not list(tmp_path.glob(".*.part"))
