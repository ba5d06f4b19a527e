"""A dictionary in another library's files computes the same when it is read back, and what cannot be is refused.

tests/fixtures/exports/check.py reads them by the libraries' own loaders, in their own environments.
"""

import json

import pytest
import torch
from export_cases import CASES, MADE, REFUSED, D, F, K, batch, randomised
from safetensors.torch import load_file

import monosem as ms


@pytest.mark.parametrize(("form", "name"), CASES)
def test_read_back_it_computes_the_same(form, name, tmp_path):
    sae, x = randomised(MADE[name]()), batch()
    folder = ms.export(sae, tmp_path / "layers.3", form)
    loaded = ms.load(folder)
    dense, again = sae.encode(x).to_dense(), loaded.encode(x).to_dense()
    torch.testing.assert_close(again, dense, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(loaded(x), sae(x), rtol=1e-5, atol=5e-5)
    assert 0 < (dense != 0).sum() < dense.numel()
    if form != "sparsify":
        assert loaded.metadata["model"] == "tiny"
        at = loaded.metadata.get("hook_name")
        assert at == sae.metadata["hook_name"] or form == "dictionary_learning"


@pytest.mark.parametrize(("form", "name", "why"), [(f, n, w) for f, some in REFUSED.items() for n, w in some.items()])
def test_what_a_library_cannot_represent_is_refused_and_nothing_is_written(form, name, why, tmp_path):
    sae = randomised(MADE[name]())
    with pytest.raises(ValueError, match=f"format: {form} has no .*{why}"):
        ms.export(sae, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_the_training_of_other_kinds_is_refused(tmp_path):
    with pytest.raises(ValueError, match="format: sae_lens has no dictionaries of kind 'crosscoder'; got"):
        ms.export(ms.Crosscoder(D, F, n_sources=2), tmp_path, "sae_lens")
    with pytest.raises(ValueError, match="without a threshold: this one was not trained"):
        ms.export(ms.BatchTopKSAE(D, F, K), tmp_path, "sae_lens")
    with pytest.raises(ValueError, match="format: got 'pickle'; wanted one of sae_lens, sparsify"):
        ms.export(ms.TopKSAE(D, F, K), tmp_path, "pickle")


def test_layers_of_one_folder_are_of_one_place(tmp_path):
    for layer in range(3):
        sae = randomised(MADE["transcoder_relu"](), seed=layer)
        sae.metadata["hook_name"] = [f"blocks.{layer}.hook_resid_mid", f"blocks.{layer}.hook_mlp_out"]
        ms.export(sae, tmp_path, "circuit_tracer")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", *(f"layer_{i}.safetensors" for i in range(3))]
    torch.testing.assert_close(ms.load(tmp_path / "layer_2.safetensors")(batch()), sae(batch()))
    sae.metadata["hook_name"] = ["blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"]
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"is of other transcoders; wanted those of 'ln2\.hook_normalized'"):
        ms.export(sae, tmp_path, "circuit_tracer")
    assert (tmp_path / "config.yaml").read_text() == before
    sae.metadata["hook_name"] = ["blocks.3.hook_resid_mid", "blocks.4.hook_mlp_out"]
    with pytest.raises(ValueError, match=r"but blocks\.N\.… → blocks\.N\.… of one layer"):
        ms.export(sae, tmp_path, "circuit_tracer")


def test_names_shapes_and_settings_of_saelens(tmp_path):
    ms.export(randomised(MADE["batch_topk"]()), tmp_path, "sae_lens")
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["architecture"] == "jumprelu" and cfg["apply_b_dec_to_input"] is True
    assert cfg["metadata"] == {
        "sae_lens_version": "6.54.12",
        "model_name": "tiny",
        "hook_name": "blocks.3.hook_resid_post",
        "hook_name_out": None,
        "context_size": 64,
        "prepend_bos": True,
    }
    shapes = {name: list(t.shape) for name, t in load_file(tmp_path / "sae_weights.safetensors").items()}
    assert shapes == {"W_enc": [D, F], "W_dec": [F, D], "b_enc": [F], "b_dec": [D], "threshold": [F]}
