"""Dictionaries that the peers' own code wrote compute here what that code computed (tests/fixtures/formats)."""

from pathlib import Path

import pytest
import torch

import monosem as ms
from monosem.analysis.inputs import load_subject

FIXTURES = Path(__file__).parents[2] / "fixtures" / "formats"
FOLDERS = {
    str(p.parent.relative_to(FIXTURES)): p.parent
    for p in sorted(FIXTURES.rglob("expected.pt"))
    if p.parents[1].name != "releases"
}
# Sums of at most 24 products below 20 in fp32, folded once in float64: 24 · 20 · 2⁻²⁴ is 3e-5; most are far below.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def expected(folder):
    values = torch.load(folder / "expected.pt", weights_only=True)
    return values["x"], values["features"], values["reconstruction"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_dictionary_of_a_peer_computes_what_the_peer_computed(name, tmp_path):
    x, features, reconstruction = expected(FOLDERS[name])
    by_token = name.endswith("layer_norm")
    sae = ms.load(FOLDERS[name], inputs_normalised=by_token)
    if by_token:  # what the caller promises
        mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        x, reconstruction = (x - mean) / (deviation + 1e-5), (reconstruction - mean) / deviation
    for loaded in (sae, ms.load(ms.save(sae, tmp_path / "own"))):
        code = loaded.encode(x)
        torch.testing.assert_close(code.to_dense(), features, **CLOSE)
        torch.testing.assert_close(loaded(x), reconstruction, **CLOSE)
        assert torch.equal(code.to_dense() != 0, features != 0)
    assert sae.metadata["model"] == "tiny-stand-in" and not sae.training
    assert 0 < (features != 0).sum() < features.numel()


def test_every_peer_is_there():
    assert {name.split("/")[0] for name in FOLDERS} == {"sae_lens", "dictionary_learning", "sparsify"}
    assert len(FOLDERS) == 39


@pytest.mark.parametrize(
    "name", ["sae_lens/jumprelu", "sae_lens/jumprelu_uncentred", "dictionary_learning/BatchTopKSAE"]
)
def test_a_value_equal_to_its_threshold_is_not_active(name):
    x, features, _ = expected(FOLDERS[name])
    code = ms.load(FOLDERS[name]).encode(x).to_dense()
    assert features[0, 0] == 0 and code[0, 0] == 0  # its pre-activation is exactly the threshold
    assert features[1, 0] == 1.5 and code[1, 0] == 1.5


@pytest.mark.parametrize(
    "name, hook",
    [
        ("sae_lens/topk", "blocks.0.hook_resid_post"),
        ("sae_lens/old_standard", "blocks.0.hook_resid_post"),
        ("sae_lens/transcoder", ["blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out"]),
        ("dictionary_learning/AutoEncoder", "blocks.0.hook_resid_post"),
        ("sparsify/topk/layers.0", "blocks.0.hook_resid_post"),
        ("sparsify/groupmax/layers.0.mlp", None),  # in Gemma its output is not what is added: nothing is guessed
        ("sparsify/transcode/layers.0.mlp", None),
    ],
)
def test_where_a_dictionary_belongs(name, hook):
    sae = ms.load(FOLDERS[name])
    assert sae.metadata.get("hook_name") == hook and sae.metadata["context"] == 16
    if hook is None:
        assert sae.metadata["loaded_from"]["hookpoint"] == "layers.0.mlp"
        with pytest.raises(ValueError, match=r"hook_name: .*\(its files name hookpoint 'layers\.0\.mlp'\); name it"):
            load_subject(FOLDERS[name], "A")
