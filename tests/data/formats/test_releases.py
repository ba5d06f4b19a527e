"""Published layouts, as SAELens' own loaders read them (tests/fixtures/formats) and by definitions in float64."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import monosem as ms

RELEASES = Path(__file__).parents[2] / "fixtures" / "formats" / "releases"
NAMES = sorted(p.parent.name for p in RELEASES.glob("*/case.json"))
CLOSE = {"rtol": 1e-5, "atol": 2e-5}  # as in test_peers.py


@pytest.mark.parametrize("name", NAMES)
def test_a_release_computes_what_its_loader_in_sae_lens_computes(name, tmp_path):
    case = json.loads((RELEASES / name / "case.json").read_text())
    values = torch.load(RELEASES / name / "expected.pt", weights_only=True)
    sae = ms.load(RELEASES / name / case["path"], **case["given"])
    for loaded in (sae, ms.load(ms.save(sae, tmp_path / "own"))):
        code = loaded.encode(values["x"]).to_dense()
        torch.testing.assert_close(code, values["features"], **CLOSE)
        torch.testing.assert_close(loaded(values["x"]), values["reconstruction"], **CLOSE)
        assert torch.equal(code != 0, values["features"] != 0)
    assert (sae.metadata.get("model"), sae.metadata.get("hook_name")) == (case["model"], case["hook_name"])


def test_every_loader_of_sae_lens_that_has_one_dictionary_per_file_is_checked():
    loaders = {json.loads((RELEASES / name / "case.json").read_text())["loader"] for name in NAMES}
    assert loaders == {
        "gemma_2",
        "gemma_2_transcoder",
        "gemma_3",
        "llama_scope",
        "llama_scope_r1_distill",
        "goodfire",
        "deepseek_r1",
        "qwen_scope",
        "mwhanna_transcoder",
        "connor_rob_hook_z",
    }


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    scales = torch.logspace(-0.7, 0.5, 24)[:, None]
    return {
        "W_enc": 0.6 * normal(24, 8),
        "W_dec": normal(24, 8) * scales,
        "b_enc": 0.3 * normal(24),
        "b_dec": 0.5 * normal(8),
        "x": 1.5 * normal(12, 8),
        "W_skip": 0.3 * normal(8, 8),
        "threshold": normal(24).exp() * 0.4,
    }


def openai(w, **others):
    statistics = dict.fromkeys(("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"))
    return {
        "pre_bias": w["b_dec"],
        "encoder.weight": w["W_enc"],
        "latent_bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
        **{name: torch.zeros(24) for name in statistics},
        **others,
    }


def topk_of(h, k):
    return torch.zeros_like(h).scatter(1, h.topk(k).indices, h.topk(k).values.relu())


def test_openai_relu(weights, tmp_path):
    torch.save(openai(weights, activation="ReLU"), tmp_path / "7.pt")
    sae, w = ms.load(tmp_path / "7.pt"), {name: value.double() for name, value in weights.items()}
    f = ((w["x"] - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]).relu()
    torch.testing.assert_close(sae.encode(weights["x"]).to_dense().double(), f, **CLOSE)
    torch.testing.assert_close(sae(weights["x"]).double(), f @ w["W_dec"] + w["b_dec"], **CLOSE)
    assert isinstance(ms.load(tmp_path), ms.ReLUSAE)  # the only dictionary in its folder


def test_openai_topk_has_inputs_that_the_caller_normalises(weights, tmp_path):
    state = {"k": 4, "postact_fn": "ReLU"}
    torch.save(openai(weights, activation="TopK", activation_state_dict=state), tmp_path / "7.pt")
    with pytest.raises(ValueError, match=r"normalised token by token \(layer_norm\).*inputs_normalised=True"):
        ms.load(tmp_path / "7.pt")
    sae, w = ms.load(tmp_path / "7.pt", inputs_normalised=True), {n: v.double() for n, v in weights.items()}
    x = (w["x"] - w["x"].mean(-1, keepdim=True)) / (w["x"].std(-1, keepdim=True) + 1e-5)
    f = topk_of((x - w["b_dec"]) @ w["W_enc"].T + w["b_enc"], 4)
    torch.testing.assert_close(sae.encode(x.float()).to_dense().double(), f, **CLOSE)
    assert sae.metadata["loaded_from"]["inputs_normalised"] == "layer_norm"


@pytest.mark.parametrize(
    "others, wanted",
    [
        ({"activation": "JumpReLU"}, "activation: got 'JumpReLU'; wanted 'ReLU' or 'TopK'"),
        ({"activation": "TopK"}, "activation_state_dict.k: got None; wanted a positive integer"),
        ({"activation": "TopK", "activation_state_dict": {"k": 4, "postact_fn": "Identity"}}, "postact_fn: got 'Iden"),
    ],
)
def test_openai_is_refused_by_name(weights, tmp_path, others, wanted):
    torch.save(openai(weights, **others), tmp_path / "7.pt")
    with pytest.raises(ValueError) as caught:
        ms.load(tmp_path / "7.pt")
    assert wanted in str(caught.value)


def circuit_tracer(w, folder, names=(), **others):
    folder.mkdir(exist_ok=True)
    tensors = {name: w[name].clone() for name in ("W_enc", "W_dec", "b_enc", "b_dec", *names)}
    save_file(tensors | others, folder / "layer_3.safetensors")
    return folder / "layer_3.safetensors"


def test_circuit_tracer_with_thresholds_and_a_skip_connection(weights, tmp_path):
    path = circuit_tracer(weights, tmp_path, ["W_skip"], **{"activation_function.threshold": weights["threshold"]})
    sae, w = ms.load(path), {name: value.double() for name, value in weights.items()}
    h = w["x"] @ w["W_enc"].T + w["b_enc"]
    f = torch.where(h > w["threshold"], h, 0)
    torch.testing.assert_close(sae.encode(weights["x"]).to_dense().double(), f, **CLOSE)
    y = f @ w["W_dec"] + w["b_dec"] + w["x"] @ w["W_skip"].T
    torch.testing.assert_close(sae(weights["x"]).double(), y, **CLOSE)
    assert sae.cfg.kind == "transcoder" and "hook_name" not in sae.metadata  # no config.yaml says where


def test_circuit_tracer_with_k(weights, tmp_path):
    path = circuit_tracer(weights, tmp_path / "in", k=torch.tensor(3))
    f = topk_of(weights["x"] @ weights["W_enc"].T + weights["b_enc"], 3)
    torch.testing.assert_close(ms.load(path).encode(weights["x"]).to_dense(), f, **CLOSE)
    path = circuit_tracer(weights, tmp_path / "beside")
    (path.parent / "config.yaml").write_text("activation: topk\nk: 3\n")
    torch.testing.assert_close(ms.load(path).encode(weights["x"]).to_dense(), f, **CLOSE)
    (path.parent / "config.yaml").write_text("activation: topk\n")
    with pytest.raises(ValueError, match="k: got None; wanted a positive integer, in config"):
        ms.load(path)
    torch.testing.assert_close(ms.load(path, k=3).encode(weights["x"]).to_dense(), f, **CLOSE)


def test_thresholds_below_0_are_refused_where_they_would_count(weights, tmp_path):
    path = circuit_tracer(weights, tmp_path, **{"activation_function.threshold": weights["threshold"] - 1})
    with pytest.raises(ValueError, match=r"threshold: got -.*; wanted thresholds of 0 or more"):
        ms.load(path)


def test_gemma_scopes_embeddings_are_scaled_as_the_hook_holds_them(weights, tmp_path):
    folder = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    folder.mkdir(parents=True)
    names = {"W_enc": weights["W_enc"].T, **{n: weights[n] for n in ("W_dec", "b_enc", "b_dec", "threshold")}}
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in names.items()})
    sae, w = ms.load(folder), {name: value.double() for name, value in weights.items()}
    h = w["x"] @ w["W_enc"].T + w["b_enc"]
    f = torch.where(h > w["threshold"], h, 0)
    at_hook = math.sqrt(8) * weights["x"]
    torch.testing.assert_close(sae.encode(at_hook).to_dense().double(), f, **CLOSE)
    torch.testing.assert_close(sae(at_hook).double(), (f @ w["W_dec"] + w["b_dec"]) * math.sqrt(8), **CLOSE)
    assert sae.metadata["hook_name"] == "hook_embed"


@pytest.mark.parametrize(
    "name, file, key, value, wanted",
    [
        ("llama_scope", "hyperparams.json", "act_fn", "topk", "act_fn: got 'topk'; wanted 'jumprelu'"),
        ("llama_scope", "hyperparams.json", "jump_relu_threshold", None, "jump_relu_threshold: got None; wanted a pos"),
        ("llama_scope", "hyperparams.json", "dataset_average_activation_norm", {}, "in: got None; wanted a positive"),
        ("llama_scope", "hyperparams.json", "hook_point_out", "blocks.8.hook_mlp_out", "its transcoders are not"),
        ("llama_scope", "hyperparams.json", "sparsity_include_decoder_norm", True, "wanted false, or decoder rows of"),
        ("gemma_scope_2", "config.json", "architecture", "topk", "architecture: got 'topk'; wanted 'jump_relu'"),
        ("gemma_scope_2", "config.json", "affine_connection", True, "affine_connection: got True; wanted False"),
    ],
)
def test_a_release_that_is_not_as_published_is_refused(tmp_path, name, file, key, value, wanted):
    case = json.loads((RELEASES / name / "case.json").read_text())
    there, here = RELEASES / name / case["path"], tmp_path / Path(case["path"]).name
    for path in there.rglob("*"):
        (here / path.relative_to(there)).parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            (here / path.relative_to(there)).write_bytes(path.read_bytes())
    (here / file).write_text(json.dumps(json.loads((here / file).read_text()) | {key: value}))
    with pytest.raises(ValueError) as caught:
        ms.load(here)
    assert wanted in str(caught.value) and str(here) in str(caught.value)


def test_what_a_release_leaves_to_its_repository_is_asked_for(weights, tmp_path):
    content = {"W_enc": weights["W_enc"], "W_dec": weights["W_dec"].T.contiguous()}
    torch.save(content | {"b_enc": weights["b_enc"], "b_dec": weights["b_dec"]}, tmp_path / "layer3.sae.pt")
    with pytest.raises(ValueError, match=r"k: .* does not say how many features are active"):
        ms.load(tmp_path / "layer3.sae.pt")
    assert ms.load(tmp_path / "layer3.sae.pt", k=5).cfg.k == 5
    case = json.loads((RELEASES / "llama_scope_r1" / "case.json").read_text())
    with pytest.raises(ValueError, match=r"input_scale: .* does not say by which factor"):
        ms.load(RELEASES / "llama_scope_r1" / case["path"])


def test_a_folder_of_several_dictionaries_lists_them(weights, tmp_path):
    for layer in (1, 2):
        circuit_tracer(weights, tmp_path).rename(tmp_path / f"layer_{layer}.safetensors")
    with pytest.raises(ValueError, match=r"holds 2 dictionaries: layer_1\.safetensors, layer_2\.safetensors; wanted"):
        ms.load(tmp_path)


def test_kinds_without_a_counterpart_are_refused_by_name(tmp_path):
    (tmp_path / "W_enc_0.safetensors").touch()
    for path in (tmp_path, tmp_path / "W_enc_0.safetensors"):
        with pytest.raises(ValueError, match="holds a cross-layer transcoder"):
            ms.load(path)
    for name in ("conf.yaml", "latest_ckpt.safetensors"):
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / name).touch()
    with pytest.raises(ValueError, match="holds a temporal SAE"):
        ms.load(tmp_path / "t")


@pytest.mark.parametrize("damage", ["cut", "code"])
def test_a_damaged_archive_is_told(tmp_path, damage):
    np.savez(tmp_path / "params.npz", W_enc=np.zeros((8, 24), np.float32), b=np.array([{}], dtype=object))
    if damage == "cut":
        content = (tmp_path / "params.npz").read_bytes()
        (tmp_path / "params.npz").write_bytes(content[:400])
    with pytest.raises(ValueError, match=r"params\.npz' is cut short or altered"):
        ms.load(tmp_path)
