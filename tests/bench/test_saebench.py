"""The script that runs SAEBench on a dictionary: what it hands over, and what it prints."""

import json
import sys
from pathlib import Path

import pytest
import saebench
import torch
from stand_in_saebench import StandIn
from tiny import HOOK, TEXTS, tiny_model

import monosem as ms
from monosem.data.native import save_folder


@pytest.fixture
def bench(monkeypatch):
    stand_in = StandIn()
    for name, module in stand_in.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(saebench, "as_transformer_lens", lambda name: ms.load_model(name))
    return stand_in


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A dictionary with free norms of a model of ours, and a text of four sources, one of them with few documents."""
    folder = tmp_path_factory.mktemp("saebench")
    own = tiny_model()
    save_folder(folder / "model", own.module, own.tokenizer)
    sae = ms.ReLUSAE(32, 48, decoder_norm="free", seed=0)
    with torch.no_grad():
        sae.W_dec.mul_(torch.linspace(0.5, 2, 48)[:, None])
    ms.save(sae, folder / "run", {"model": str(folder / "model"), "hook_name": HOOK})
    lines = [{"source": s, "text": f"{text} {i}"} for s, text in TEXTS.items() for i in range(3 if s == "he" else 12)]
    (folder / "text.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def call(monkeypatch, run, out, *options):
    words = ["saebench.py", str(run / "run"), "--out", str(out), "--text", str(run / "text.jsonl"), "--texts", "10"]
    monkeypatch.setattr(sys, "argv", [*words, *options])
    saebench.main()


def test_every_evaluation_gets_the_dictionary_the_model_and_local_texts(bench, run, tmp_path, monkeypatch, capsys):
    call(monkeypatch, run, tmp_path, "--context", "16", "--batches", "2", "--batch-size", "4")
    assert list(bench.calls) == list(saebench.EVALUATIONS)
    core = bench.calls["core"]
    assert core["device"] == "cpu" and core["context_size"] == 16 and core["eval_batch_size_prompts"] == 4
    assert core["n_eval_reconstruction_batches"] == core["n_eval_sparsity_variance_batches"] == 2
    lines = (Path(core["dataset"]) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    written = [json.loads(line)["text"] for line in lines]
    assert written == [document.text for document in ms.documents(run / "text.jsonl")]
    config = bench.calls["sparse_probing"]["config"]
    assert config.model_name == str(run / "model") and config.dataset_names == ["local"] and config.context_length == 16
    assert bench.calls["sae_probes"]["config"].dataset_names == saebench.SHORT
    for each in bench.calls.values():
        ((name, view),) = each["selected_saes"]
        assert name == "monosem" and view.cfg.hook_name == HOOK and view.norms is not None and not view.training
    printed = capsys.readouterr().out
    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*/*_eval_results.json")}
    assert len(results) == 3 and all(name in printed for name in results)
    assert all(json.dumps(r["eval_result_metrics"], indent=1) in printed for r in results.values())
    assert results["monosem_sparse_probing_eval_results"]["eval_result_metrics"] == {
        s: [8, 2] for s in ("en", "dna", "code")
    }  # a source of three documents is too small
    # In units of the reconstruction, and what the dictionary computes.
    sae, x = (
        ms.load(run / "run").requires_grad_(False),
        ms.load_model(run / "model").activations(torch.arange(8)[None], HOOK),
    )
    metrics = results["monosem_core_eval_results"]["eval_result_metrics"]
    assert metrics["unit_rows"] and metrics["mse"] == pytest.approx(float((sae(x) - x).square().mean()), rel=1e-4)
    assert metrics["l0"] == pytest.approx(sae.encode(x).l0())


def test_a_model_of_a_library_is_loaded_by_saebench_itself(bench, monkeypatch):
    loaded = []
    monkeypatch.setattr(ms, "load_model", lambda name: loaded.append(name))
    before = bench.lens.HookedTransformer.from_pretrained
    saebench.give_model("gpt2-small")
    assert loaded == ["gpt2-small"] and bench.lens.HookedTransformer.from_pretrained is before


def test_chosen_evaluations_and_unknown_ones(bench, run, tmp_path, monkeypatch, capsys):
    call(monkeypatch, run, tmp_path, "--only", "sae_probes", "--tasks", "a", "b", "--name", "mine")
    assert list(bench.calls) == ["sae_probes"] and bench.calls["sae_probes"]["config"].dataset_names == ["a", "b"]
    assert "mine_sae_probes_eval_results.json" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call(monkeypatch, run, tmp_path, "--only", "ravel")
    assert "invalid choice: 'ravel'" in capsys.readouterr().err
