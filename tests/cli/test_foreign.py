"""The commands take a dictionary of another library where they take a run of ours."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import HOOK, tiny_documents, tiny_model

from monosem.cli.main import main
from monosem.data.native import save_folder

OUT = "blocks.0.hook_mlp_out"
COMMANDS = {
    "evaluation.json": ["evaluate", "A", "--report", "--split", "all"],
    "features/index.html": ["features", "A"],
    "explain.html": ["explain", "A", "--features", 3],
    "steering.html": ["steer", "A", "--samples", 1, "--length", 3, "--trials", 1],
    "universality.html": ["compare", "A", "B", "--least", 1],
    "proxies.html": ["proxies", "A"],
    "transcoder.json": ["evaluate", "pair", "--split", "all"],
    "again.json": ["evaluate", "learnt", "--split", "all"],
    "normalised/features/index.html": ["features", "normalised"],
    "normalised/steering.html": ["steer", "normalised", "--samples", 1, "--length", 3, "--trials", 1],
}


def sae_lens(folder, architecture, where, seed=0, d_out=32, **settings):
    """A dictionary of 24 features on the tiny model's neurons, as SAELens writes it."""
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(24, d_out, generator=generator)
    tensors = {"W_enc": torch.randn(32, 24, generator=generator), "W_dec": W_dec, "b_dec": torch.zeros(d_out)}
    tensors |= {"b_enc": torch.full((24,), -0.1), "threshold": torch.full((24,), 0.05)}
    if "skip" in architecture:
        tensors["W_skip"] = torch.randn(d_out, 32, generator=generator)
    if "jumprelu" not in architecture:
        del tensors["threshold"]
    folder.mkdir(parents=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    cfg = {"d_in": 32, "d_sae": 24, "d_out": d_out, "architecture": architecture, "apply_b_dec_to_input": False}
    cfg |= {"metadata": where | {"sae_lens_version": "6.9.0"}} | settings
    (folder / "cfg.json").write_text(json.dumps(cfg))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("foreign"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(12)]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    where = {"model_name": str(folder / "model"), "hook_name": HOOK, "context_size": 16}
    sae_lens(folder / "A", "jumprelu", where)
    sae_lens(folder / "B", "standard", where, seed=1)
    sae_lens(folder / "pair", "jumprelu_skip_transcoder", where | {"hook_name_out": OUT}, d_out=16)
    sae_lens(folder / "normalised", "standard", where, normalize_activations="layer_norm")
    sae_lens(folder / "unknown", "temporal", where)
    (folder / "learnt").mkdir()
    ae = {"bias": torch.zeros(32), "encoder.weight": torch.randn(24, 32), "encoder.bias": torch.zeros(24)}
    torch.save(ae | {"decoder.weight": torch.randn(32, 24)}, folder / "learnt" / "ae.pt")
    trainer = {"dict_class": "AutoEncoder", "activation_dim": 32, "dict_size": 24}
    (folder / "learnt" / "config.json").write_text(json.dumps({"trainer": trainer}))
    return folder


def call(folder, words):
    words = [folder / w if w in ("A", "B", "pair", "learnt", "normalised", "unknown") else w for w in words]
    named = ["--model", folder / "model", "--hook", HOOK] if folder / "learnt" in words else []
    out = folder / "out" / ("features" if words[0] == "features" else words[1].name)
    text = ["--text", folder / "text.jsonl", "--out", out]
    return main([*map(str, [*words, *text, *named, "--quiet"])]), out


@pytest.mark.parametrize("page", COMMANDS)
def test_a_command_reads_a_dictionary_of_another_library(folder, capsys, page):
    code, out = call(folder, COMMANDS[page])
    output = capsys.readouterr()
    assert code == 0, output.err
    name = {"transcoder.json": "evaluation.json", "again.json": "evaluation.json"}.get(page, page)
    written = out / Path(name).name
    assert written.is_file()
    if name == "evaluation.json":
        record = json.loads(written.read_text())
        assert record["l0"] > 0 and record["metadata"]["loaded_from"]["format"] in ("SAELens", "dictionary_learning")
        assert ("--context 16, as trained" in output.out) == (page != "again.json")


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("unknown", "architecture: got 'temporal'; wanted one of standard"),
        ("model", "no dictionary in "),
    ],
)
def test_what_cannot_be_read_is_an_error_of_one_line(folder, capsys, name, wanted):
    assert main(["evaluate", str(folder / name), "--quiet"]) == 2
    output = capsys.readouterr().err
    assert wanted in output and output.count("\n") == 1
