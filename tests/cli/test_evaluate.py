"""``monosem evaluate`` and ``monosem demo`` from the command line, on a tiny real model."""

import json

import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.inputs import load_rows
from monosem.cli.main import main
from monosem.data.native import save_folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with a model, a text, and a dictionary with its model and hook in the metadata."""
    folder, model = tmp_path_factory.mktemp("evaluate"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(30)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    sae = ms.TopKSAE(32, 40, k=4, seed=0)
    ms.save(sae, folder / "sae", {"model": str(folder / "model"), "hook_name": HOOK})
    ms.save(ms.TopKSAE(7, 40, k=4, seed=0), folder / "narrow", {"model": str(folder / "model"), "hook_name": HOOK})
    ms.save(sae, folder / "nameless")
    return folder


def evaluate(workspace, folder, *options):
    return main(
        ["evaluate", str(workspace / folder), "--text", str(workspace / "text.jsonl"), "--quiet", *map(str, options)]
    )


def test_table_json_picture_and_page(workspace, tmp_path, capsys):
    assert evaluate(workspace, "sae", "--split", "all", "--out", tmp_path / "out", "--report") == 0
    output = capsys.readouterr().out
    got = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    rows = load_rows(tiny_model(), workspace / "text.jsonl", "all")
    assert got["tokens"] == int((rows.tokens != 0).sum()) and got["l0"] == pytest.approx(4, abs=0.5)
    assert (got["hook_name"], got["d_sae"]) == (HOOK, 40)
    assert {s["source"] for s in got["by_source"]} == {"en", "he", "dna", "code"}
    assert {s["label"] for s in got["labels"]} == {"DNA"}
    assert "CE loss recovered" in output and (tmp_path / "out" / "evaluation.svg").read_text().startswith("<svg")
    assert "open file://" in output and "<html" in (tmp_path / "out" / "report.html").read_text()
    assert not (workspace / "sae" / "evaluation.json").exists()


def test_some_tokens_and_the_folder_of_the_dictionary(workspace):
    assert (
        evaluate(
            workspace, "nameless", "--split", "train", "--tokens", 64, "--model", workspace / "model", "--hook", HOOK
        )
        == 0
    )
    assert json.loads((workspace / "nameless" / "evaluation.json").read_text())["contexts"] == 2


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("nowhere", (), "no folder or file "),
        ("nameless", (), "does not say which it was trained on"),
        ("narrow", (), "32 wide and the SAE has d_in=7"),
        ("sae", ("--hook", "blocks.0.mlp.hook_pots"), "mlp.hook_post"),
        ("sae", ("--tokens", "0"), "tokens: got 0"),
        ("sae", ("--text", "missing.jsonl"), "no file 'missing.jsonl'"),
        ("sae", ("--skip-positions", "99"), "skip_positions: got 99"),
    ],
)
def test_errors_are_one_line(workspace, tmp_path, capsys, folder, options, message):
    assert evaluate(workspace, folder, "--split", "all", "--out", tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_too_little_text(workspace, tmp_path, capsys):
    (tmp_path / "short.jsonl").write_text('{"text": "the fox"}\n')
    assert main(["evaluate", str(workspace / "sae"), "--text", str(tmp_path / "short.jsonl"), "--split", "all"]) == 2
    assert "one context" in capsys.readouterr().err
    assert main(["evaluate", str(workspace / "sae"), "--text", str(tmp_path / "short.jsonl")]) == 2
    assert "holds no document for split 'held_out'" in capsys.readouterr().err


def test_the_demo_on_a_small_scale(workspace, tmp_path, capsys):
    options = [
        "--model",
        workspace / "model",
        "--text",
        workspace / "text.jsonl",
        "--d-sae",
        48,
        "--k",
        4,
        "--steps",
        12,
    ]
    assert main(["demo", "--out", str(tmp_path / "demo"), "--quiet", *map(str, options)]) == 0
    output = capsys.readouterr().out
    assert (tmp_path / "demo" / "report.html").resolve().as_uri() in output
    result = json.loads((tmp_path / "demo" / "evaluation.json").read_text())
    assert result["d_sae"] == 48 and result["labels"][0]["label"] == "DNA"
    sae = ms.load(tmp_path / "demo")
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(48)) and sae.metadata["hook_name"] == HOOK
