"""``monosem profile`` on tiny runs: finished, unfinished, one of several, saved without a run; and its errors."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.bench import floor
from monosem.bench.floor import Rates
from monosem.cli.main import main
from monosem.data.native import save_folder
from monosem.data.tokenizer import train_tokenizer
from monosem.train import checkpoint
from monosem.train.reopened import reopen


@pytest.fixture(scope="module", autouse=True)
def rates():
    """Fixed rates, so that nothing is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floor, "measure", lambda d: Rates(1e10, 1e10, "fp32", {"fp32": 1e10}))
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with a model, a text, activations and runs: of one dictionary, and of two."""
    folder = tmp_path_factory.mktemp("profile")
    save_folder(folder / "model", tiny_model().module, train_tokenizer((d.text for d in tiny_documents()), 300))
    text = "".join(json.dumps({"source": d.source, "text": d.text}) + "\n" for d in tiny_documents(30))
    (folder / "text.jsonl").write_text(text)
    common = ["--model", folder / "model", "--hook", HOOK, "--split", "all", "--text", folder / "text.jsonl"]
    train = ["train", *common, "--d-sae", 64, "--batch-size", 128, "--steps", 8, "--quiet", "--checkpoint-every", 4]
    for out, k in (("run", [4]), ("several", [4, 8])):
        assert main([str(w) for w in (*train, "--out", folder / out, "--k", *k)]) == 0
    assert main([str(w) for w in ("harvest", *common, "--out", folder / "acts", "--quiet")]) == 0
    return folder


@pytest.fixture
def profiled(workspace, capsys):
    """profiled("run", ...): what is printed, profile.json, and the exit code."""

    def run(folder, *more):
        capsys.readouterr()
        code = main([str(w) for w in ("profile", workspace / folder, "--steps", 4, "--quiet", *more)])
        output = capsys.readouterr()
        out = workspace / folder / "profile.json"
        return code, output, json.loads(out.read_text()) if out.exists() else None

    return run


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith("profile.")}


def test_a_run_is_profiled_on_its_own_activations_and_its_files_stay(workspace, profiled):
    before = contents(workspace / "run")
    code, output, result = profiled("run")
    assert code == 0 and contents(workspace / "run") == before
    assert "N=128 D=32 F=64, L0 4.0, after 8 steps; mean of 4 steps" in output.out
    assert "text.jsonl, as trained" in output.out and "encoder product: " in output.out
    for name in ("encode", "decode_loss", "sort", "encoder_sweep", "decoder_sweep", "step", "waiting for activations"):
        assert f"\n{name} " in output.out
    assert result["step"]["to_floor"] > 0 and result["shape"]["n"] == 128
    assert (workspace / "run" / "profile.svg").read_text().startswith("<svg")


def test_activations_on_disk_another_batch_size_and_folder(workspace, profiled, tmp_path):
    code, output, _ = profiled(
        "run", "--activations", workspace / "acts", "--batch-size", 50, "--out", tmp_path / "new"
    )
    assert code == 0 and "N=50" in output.out and f"written: {tmp_path / 'new' / 'profile.json'}" in output.out


def test_one_of_several_and_an_unfinished_run(workspace, profiled, tmp_path):
    assert profiled("several/1")[2]["sae"]["k"] == 8
    code, output, _ = profiled("several", "--out", tmp_path)
    advice = f"of 2 autoencoders; wanted one of them. Name its folder, such as '{workspace / 'several' / '0'}'"
    assert code == 2 and advice in output.err
    shutil.copytree(workspace / "run", workspace / "stopped")
    for name in ("cfg.json", "sae.safetensors"):
        (workspace / "stopped" / name).unlink()
    code, output, result = profiled("stopped", "--text", workspace / "text.jsonl")
    assert code == 0 and "after 8 steps" in output.out and result["sae"]["k"] == 4


def test_a_dictionary_without_a_run_is_profiled_with_a_new_optimizer(workspace, profiled):
    ms.save(ms.TopKSAE(32, 48, k=3, seed=0), workspace / "saved")
    code, output, _ = profiled("saved")
    assert (
        code == 2 and "does not say which it was trained on; wanted --model and --hook, or --activations" in output.err
    )
    code, output, result = profiled("saved", "--activations", workspace / "acts", "--batch-size", 64)
    assert code == 0 and result["sae"]["d_sae"] == 48


def test_reopening_takes_the_state_of_the_last_checkpoint(workspace):
    opened = reopen(workspace / "run", time_phases=True)
    tensors = checkpoint.load(workspace / "run", 8).tensors
    learner = opened.learner
    assert opened.steps_done == 8 and learner.fast.count == 8 and learner.times is not None
    assert torch.equal(learner.fast.m["W_dec"], tensors["0.adam.m.W_dec"])
    assert torch.equal(learner.dead.tokens_since_fired, tensors["0.dead.tokens_since_fired"])
    assert learner.cfg.batch_size == 128
    second = reopen(workspace / "several" / "1").learner.sae
    assert torch.equal(second.W_dec, ms.load(workspace / "several" / "1").W_dec)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", 0], "--steps: got 0; wanted at least 1"),
        (["--batch-size", 0], "--batch-size: got 0; wanted at least 1"),
        (["--hook", "blocks.7.x"], "blocks.7.x"),
        (["--activations", "{workspace}/acts", "--hook", HOOK], "--hook: got"),
        (["--activations", "{workspace}/none"], "none"),
    ],
)
def test_errors_are_one_line(workspace, profiled, words, message):
    code, output, _ = profiled("run", *(str(w).format(workspace=workspace) for w in words))
    assert (
        code == 2
        and output.err.startswith("monosem profile: ")
        and message in output.err
        and output.err.count("\n") == 1
    )


def test_a_folder_without_a_run_is_refused(profiled, workspace):
    code, output, _ = profiled("acts")
    assert code == 2 and "no dictionary in" in output.err and "This folder holds activations" in output.err


def test_activations_of_another_width_are_refused(workspace, profiled):
    ms.save(ms.TopKSAE(16, 48, k=3, seed=0), workspace / "narrow")
    code, output, _ = profiled("narrow", "--activations", workspace / "acts")
    assert code == 2 and "got width 32; wanted d_in=16" in output.err


def test_a_run_on_an_array_of_tokens_reads_that_array(workspace, profiled):
    np.save(workspace / "tokens.npy", np.random.default_rng(0).integers(0, 300, (60, 32)))
    words = [
        "train",
        "--model",
        workspace / "model",
        "--hook",
        HOOK,
        "--split",
        "all",
        "--tokens",
        workspace / "tokens.npy",
    ]
    words += ["--d-sae", 64, "--batch-size", 128, "--steps", 2, "--k", 4, "--quiet", "--out", workspace / "array"]
    assert main([str(w) for w in words]) == 0
    code, output, _ = profiled("array")
    assert code == 0 and "text:" not in output.out
