"""A dictionary in another library's files computes the same when it is read back, and what cannot be is refused.

tests/fixtures/exports/check.py reads them by the libraries' own loaders, in their own environments.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

import monosem as ms
from monosem.data.exports import WRITERS

D, F, K = 8, 24, 4


def randomised(sae, seed=0):
    """Weights and biases of several scales, so that no convention can be left out unnoticed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            scale = 0.6 if p.dim() == 2 else 0.3
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
            if name == "threshold":
                p.abs_()
        if sae.has_unit_rows:
            sae.normalize_decoder()
        for name, buffer in sae.named_buffers():
            if name == "batches.threshold":
                buffer.fill_(0.4)
    sae.changed()
    pair = ["blocks.3.hook_resid_mid", "blocks.3.hook_mlp_out"]
    hook = pair if sae.cfg.kind == "transcoder" else "blocks.3.hook_resid_post"
    sae.metadata = {"model": "tiny", "hook_name": hook, "context": 64}
    return sae.eval()


def transcoder(activation, skip=False, d_out=D):
    settings = {"initial_threshold": 0.1, "bandwidth": 0.05, "l0_coefficient": 1e-3} if activation == "jumprelu" else {}
    return ms.Transcoder(D, d_out, F, K, activation=activation, skip=skip, **settings)


JUMP = {"initial_threshold": 0.1, "bandwidth": 0.05, "l0_coefficient": 1e-3}
MADE = {
    "relu": lambda: ms.ReLUSAE(D, F),
    "relu_free": lambda: ms.ReLUSAE(D, F, decoder_norm="free"),
    "relu_free_centred": lambda: ms.ReLUSAE(D, F, decoder_norm="free", apply_b_dec_to_input=True),
    "topk": lambda: ms.TopKSAE(D, F, K),
    "abs_topk": lambda: ms.AbsTopKSAE(D, F, K),
    "batch_topk": lambda: ms.BatchTopKSAE(D, F, K),
    "jumprelu": lambda: ms.JumpReLUSAE(D, F, **JUMP),
    "jumprelu_free": lambda: ms.JumpReLUSAE(D, F, decoder_norm="free", **JUMP),
    "gated": lambda: ms.GatedSAE(D, F),
    "group_max": lambda: ms.GroupMaxSAE(D, F, K),
    "hierarchical_topk": lambda: ms.HierarchicalTopKSAE(D, F, K),
    "matryoshka": lambda: ms.MatryoshkaSAE(D, F, prefixes=(6, 12, F), k=K),
    "matryoshka_topk": lambda: ms.MatryoshkaSAE(D, F, prefixes=(6, 12, F), k=K, activation="topk"),
    "transcoder_relu": lambda: transcoder("relu"),
    "transcoder_relu_wide": lambda: transcoder("relu", d_out=D + 3),
    "transcoder_topk": lambda: transcoder("topk"),
    "transcoder_jumprelu": lambda: transcoder("jumprelu"),
    "transcoder_batch_topk_skip": lambda: transcoder("batch_topk", skip=True),
}
# What each library has no form of, and why.
REFUSED = {
    "sae_lens": {"group_max": "activation 'group_max'", "transcoder_topk": "transcoder of 'topk'"},
    "sparsify": dict.fromkeys(MADE, "but topk and group_max"),
    "dictionary_learning": dict.fromkeys(("abs_topk", "group_max"), "activation")
    | dict.fromkeys((n for n in MADE if n.startswith("transcoder")), "transcoders"),
    "circuit_tracer": dict.fromkeys((n for n in MADE if not n.startswith("transcoder")), "dictionaries but transcoders")
    | {"transcoder_relu_wide": "output of another width"},
}
for _name in ("topk", "group_max", "hierarchical_topk", "matryoshka_topk", "transcoder_topk"):
    del REFUSED["sparsify"][_name]
CASES = [(form, name) for form in WRITERS for name in MADE if name not in REFUSED[form]]


def batch(n=20):
    return torch.randn(n, D, generator=torch.Generator("cpu").manual_seed(7)) * 1.5


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
