"""Every command that reads a model reads one of Hugging Face: by folder, module names, patterns and dtype."""

import json
import os

import pytest
from hf_families import FAMILIES, random_model
from tiny import tiny_documents, tiny_model

import monosem as ms
from monosem.cli.main import main
from monosem.data.lens import _hugging_face
from monosem.data.store import ActivationStore

if not os.environ.get("MONOSEM_REQUIRE_LENS"):
    reason = "transformers is not installed (pip install 'monosem[hf]')"
    pytest.importorskip("transformers", reason=reason, exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")
HOOK = "model.layers.1"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with a model and a text."""
    folder = tmp_path_factory.mktemp("hugging_face")
    random_model("Llama", **FAMILIES["Llama"].settings).save_pretrained(folder / "model")
    _hugging_face(tiny_model().tokenizer, str(folder / "tokenizer")).save_pretrained(folder / "model")
    text = "\n".join(json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(16))
    (folder / "text.jsonl").write_text(text)
    return folder


def run(command, *options):
    assert main([command, *map(str, options), "--quiet"]) == 0


@pytest.fixture(scope="module")
def trained(workspace):
    """A run on activations of bf16, with its model and text."""
    out = workspace / "run"
    options = ("--model", workspace / "model", "--model-dtype", "bf16", "--hook", HOOK, "--context", 32)
    text = ("--text", workspace / "text.jsonl", "--split", "all")
    run("train", *options, *text, "--d-sae", 64, "--k", 4, "--batch-size", 64, "--steps", 20, "--out", out)
    return out


def test_a_run_keeps_its_model_with_its_dtype(workspace, trained):
    metadata = ms.load(trained).metadata
    assert metadata["model"] == f"{workspace / 'model'}+bf16" and metadata["hook_name"] == HOOK


def test_the_run_is_evaluated_browsed_and_steered(trained, capsys):
    run("evaluate", trained, "--split", "all")
    assert "CE" in capsys.readouterr().out
    run("index", trained, "--split", "all", "--tokens", 2000)
    run("features", trained)
    run("steer", trained, "--add", "7=3", "--prompt", "the quick", "--samples", 1, "--length", 4)
    assert "seed 0" in capsys.readouterr().out


def test_an_encoder_is_trained_on_and_evaluated_without_losses(workspace, tmp_path, capsys):
    import transformers

    small = dict(vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    transformers.BertModel(transformers.BertConfig(**small)).save_pretrained(tmp_path / "bert")
    _hugging_face(tiny_model().tokenizer, str(tmp_path / "tokenizer")).save_pretrained(tmp_path / "bert")
    text = ("--text", workspace / "text.jsonl", "--split", "all", "--context", 32)
    options = ("--model", tmp_path / "bert", "--hook", "encoder.layer.1", "--d-sae", 64, "--k", 4)
    run("train", *options, *text, "--batch-size", 64, "--steps", 60, "--out", tmp_path / "run")
    run("evaluate", tmp_path / "run", "--split", "all")
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert figures["explained_variance"] > 0 and figures["ce_loss_recovered"] is None and figures["ce_clean"] is None
    assert [s["source"] for s in figures["by_source"]] == ["code", "dna", "en", "he"]
    assert "no next token was predicted" in capsys.readouterr().out
    assert "no next token was predicted" in (tmp_path / "run" / "evaluation.svg").read_text()
    run("index", tmp_path / "run", "--split", "all", "--tokens", 2000)
    run("features", tmp_path / "run", "--prompt", "the quick")
    assert '"logits":false' in (tmp_path / "run" / "features" / "index.html").read_text(encoding="utf-8")
    assert main(["steer", str(tmp_path / "run"), "--add", "7=3", "--quiet"]) == 2
    assert "is a BertModel, which predicts no next token; wanted" in capsys.readouterr().err.splitlines()[-1]
    for command, said in (("automata", "automata: they are links"), ("explain", "RUN: its features would be shown by")):
        assert main([command, str(tmp_path / "run"), "--quiet"]) == 2
        assert said in (error := capsys.readouterr().err) and "predicts no next token" in error


def test_several_hooks_by_a_pattern(workspace):
    out = workspace / "several"
    options = ("--model", workspace / "model", "--hook", "model.layers.*.mlp", "--context", 32)
    run("harvest", *options, "--text", workspace / "text.jsonl", "--split", "all", "--out", out)
    store = ActivationStore(out)
    assert store.hook_name == ["model.layers.0.mlp", "model.layers.1.mlp"] and store.widths == (32, 32)
    kind = ("--kind", "crosscoder", "--d-sae", 32, "--batch-size", 64, "--steps", 5)
    run("train", *options, *kind, "--text", workspace / "text.jsonl", "--split", "all", "--out", workspace / "cross")
    assert ms.load(workspace / "cross").metadata["hook_name"] == store.hook_name


def test_hooks_are_listed(workspace, capsys):
    assert main(["hooks", "--model", str(workspace / "model")]) == 0
    lines = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["model.layers.1.mlp.down_proj:in"] == lines["blocks.1.mlp.hook_post"] == "48"


def test_it_writes_text_and_is_measured(workspace, capsys):
    assert main(["lm", "generate", "--model", str(workspace / "model"), "--prompt", "the quick", "--length", "3"]) == 0
    assert capsys.readouterr().out.startswith("the quick")
    text = ("--text", str(workspace / "text.jsonl"), "--split", "all")
    assert main(["lm", "evaluate", "--model", str(workspace / "model"), *text, "--quiet"]) == 0
    assert "nats/token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("harvest --model A --model-dtype bf16", "dtype: got 'bf16'; the model is one of monosem's own"),
        ("harvest --model A --device-map auto", "device_map: got 'auto'; the model is one of monosem's own"),
        ("harvest --model MODEL --revision main", "revision: got 'main'; 'MODEL' is on this disk. Leave it out."),
        ("harvest --model MODEL+fp32 --model-dtype bf16", "dtype: got 'bf16' beside 'MODEL+fp32'"),
        (
            "harvest --model MODEL --hook model.layers.*.mpl",
            "hook_name: no hook of 'MODEL' matches 'model.layers.*.mpl'",
        ),
        ("train --model MODEL --hook model.layers.*", "--hook: got model.layers.*; wanted one on --kind topk"),
        ("evaluate RUN --revision main", "--revision: got 'main' and no model; wanted --model beside it"),
        ("evaluate RUN --model-dtype bf16", "--model-dtype: got 'bf16' and no model"),
    ],
)
def test_options_that_do_not_fit_are_one_line(workspace, trained, tmp_path, capsys, command, message):
    put = lambda text: text.replace("MODEL", str(workspace / "model")).replace("RUN", str(trained))
    words = [put(word) for word in command.split()]
    out = [] if words[0] == "evaluate" else ["--out", str(tmp_path / "out")]
    assert main([*words, *out]) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # behind the bar of the model's weights
    assert error.startswith(f"monosem {words[0]}: {put(message)}")
