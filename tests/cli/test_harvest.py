"""``monosem harvest`` from the command line: text or array in, a store out, one-line errors."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

from monosem.cli.main import main
from monosem.data.native import save_folder
from monosem.data.store import ActivationStore


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with a model, a text and an array of tokens."""
    folder, model = tmp_path_factory.mktemp("harvest"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    text = "\n".join(json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents())
    (folder / "text.jsonl").write_text(text)
    np.save(folder / "tokens.npy", np.arange(290, dtype=np.uint16).reshape(-1, 29))
    return folder


def run(workspace, out, *options):
    return main(["harvest", "--model", str(workspace / "model"), "--out", str(out), "--quiet", *map(str, options)])


def test_harvest_of_text_prints_the_next_command(workspace, tmp_path, capsys):
    assert (
        run(workspace, tmp_path / "acts", "--text", workspace / "text.jsonl", "--split", "all", "--dtype", "fp32") == 0
    )
    output = capsys.readouterr().out
    store = ActivationStore(tmp_path / "acts")
    rows = len(store.tokens)
    assert f"{HOOK} of {workspace / 'model'!s}: {rows} contexts of 32 tokens, width 32, fp32: about " in output
    counted = int((store.tokens[:, 1:] != 0).sum())  # 0 is BOS
    assert f"{counted:,} activations in 1 shards, " in output
    assert f"next: monosem train --activations {tmp_path / 'acts'} --out runs/acts" in output
    assert store.n_stored == counted and store.hook_name == HOOK
    assert torch.cat(list(store)).isfinite().all()


def test_array_to_store(workspace, tmp_path):
    options = (
        "--tokens",
        workspace / "tokens.npy",
        "--contexts",
        5,
        "--skip-positions",
        2,
        "--hook",
        "blocks.0.hook_resid_pre",
    )
    assert run(workspace, tmp_path, *options) == 0
    store = ActivationStore(tmp_path)
    assert (store.d_in, store.n_stored, store.index.settings["dtype"]) == (16, 5 * 27, "bf16")
    assert run(workspace, tmp_path, *options) == 0  # complete: checked, and left as it is


@pytest.mark.parametrize(
    "options, message",
    [
        (["--hook", "blocks.0.mlp.hook_pots"], "blocks.0.mlp.hook_post"),
        (["--text", "nowhere.jsonl"], "no file 'nowhere.jsonl'"),
        (["--tokens", "nowhere.npy"], "no file 'nowhere.npy'"),
        (["--skip-positions", "29"], "skip_positions: got 29; wanted 0 to 28"),
        (["--shard-mib", "0"], "shard_mib: got 0; wanted"),
        (["--contexts", "0"], "contexts: got 0"),
    ],
)
def test_errors_are_one_line(workspace, tmp_path, capsys, options, message):
    if "--text" not in options and "--tokens" not in options:
        options = [*options, "--tokens", workspace / "tokens.npy"]
    assert run(workspace, tmp_path / "acts", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("monosem harvest: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "acts").exists()


def test_text_and_tokens_exclude_each_other(workspace, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(workspace, tmp_path, "--tokens", workspace / "tokens.npy", "--text", workspace / "text.jsonl")
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_killed_harvest_resumes(workspace, tmp_path):
    np.save(tmp_path / "many.npy", np.random.default_rng(0).integers(0, 300, (5_000, 32)))
    command = ["--tokens", tmp_path / "many.npy", "--shard-mib", 1]
    arguments = ["harvest", "--model", workspace / "model", "--out", tmp_path / "acts", *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "monosem.cli.main", *map(str, arguments)], env=environment, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while not (tmp_path / "acts" / "shard-00002.bin").exists() and time.monotonic() < end:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert b"tok" in child.communicate()[1]  # the progress bar counts tokens
    # Shards 0 and 1 are certainly in the index; 2 is on disk, and may have been cut off from it.
    done = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "acts").glob("shard-0000[01].bin")}
    assert child.returncode == -signal.SIGKILL and len(done) == 2
    assert not (tmp_path / "acts" / "shard-00009.bin").exists()
    assert run(workspace, tmp_path / "acts", *command) == 0
    assert {name: (tmp_path / "acts" / name).stat().st_mtime_ns for name in done} == done
    store = ActivationStore(tmp_path / "acts")
    store.verify()
    assert store.n_stored == int((store.tokens[:, 1:] != 0).sum()) and not list((tmp_path / "acts").glob(".*"))
