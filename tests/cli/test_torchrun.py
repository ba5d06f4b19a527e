"""The commands as torchrun starts them: two processes write what one does, and only the first speaks."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import TEXTS

import monosem as ms
from monosem.cli.main import main

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "monosem"]
CHILD = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def torchrun(*words):
    done = subprocess.run([*TORCHRUN, *map(str, words)], env=CHILD, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A text; activations, and a dictionary trained on them, by two processes each; what they said."""
    folder = tmp_path_factory.mktemp("torchrun")
    lines = [json.dumps({"text": text * 20, "source": name}) for name, text in TEXTS.items()]
    (folder / "text.jsonl").write_text("\n".join(lines))
    text = ["--text", folder / "text.jsonl", "--split", "all"]
    train = ["--activations", folder / "acts", "--d-sae", "64", "--steps", "5", "--batch-size", "64", "--quiet"]
    said = {
        "harvest": torchrun("harvest", *text, "--quiet", "--out", folder / "acts"),
        "train": torchrun("train", *train, "--out", folder / "run"),
        "evaluate": torchrun("evaluate", folder / "run", *text, "--out", folder / "evaluated"),
    }
    return folder, text, said


def test_each_command_ends_well_and_speaks_once(made):
    for command, (code, out, err) in made[2].items():
        assert code == 0, (command, out, err)
        assert "2 processes" in out and out.count("2 processes") == 1, (command, out)
        assert len(set(lines := [line for line in out.splitlines() if line.strip()])) == len(lines), (command, out)


def test_files_are_those_of_one_process(made, tmp_path, monkeypatch):
    folder, text, _ = made
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun does
    try:
        assert main(["harvest", *map(str, text), "--out", str(tmp_path / "acts")]) == 0
        assert main(["evaluate", str(folder / "run"), *map(str, text), "--out", str(tmp_path / "evaluated")]) == 0
    finally:
        torch.set_num_threads(threads)
    for path in (tmp_path / "acts").iterdir():
        if path.name != "run.yaml":  # names its folder
            assert (folder / "acts" / path.name).read_bytes() == path.read_bytes(), path.name
    assert ms.load(folder / "run").cfg.d_sae == 64
    one, two = (json.loads((path / "evaluated" / "evaluation.json").read_text()) for path in (tmp_path, folder))
    assert one["tokens"] == two["tokens"] and one["ce_sae"] == pytest.approx(two["ce_sae"], rel=1e-6)


def test_an_error_is_said_by_the_process_that_has_it(made):
    folder, text, _ = made
    code, out, err = torchrun("harvest", *text, "--dtype", "fp32", "--out", folder / "acts")
    assert code and "holds other activations (dtype: 'bf16' there, 'fp32' here" in err and "Traceback" not in out
