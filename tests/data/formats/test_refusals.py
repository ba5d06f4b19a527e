"""What a foreign dictionary cannot be is refused by name: file, key, what it holds, what was wanted."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import monosem as ms

FIXTURES = Path(__file__).parents[2] / "fixtures" / "formats"
WEIGHTS = "sae_weights.safetensors"


@pytest.fixture
def copy(tmp_path):
    """A copy of a fixture with changes to its configuration and its tensors; None removes."""

    def make(name, config=None, tensors=None, file="cfg.json", weights=WEIGHTS):
        folder = tmp_path / "copy"
        shutil.copytree(FIXTURES / name, folder)
        record = json.loads((folder / file).read_text())
        for key, value in (config or {}).items():
            inner = record["trainer"] if file == "config.json" else record
            inner.pop(key, None) if value is None else inner.update({key: value})
        (folder / file).write_text(json.dumps(record))
        if tensors:
            is_safe = weights.endswith(".safetensors")
            content = load_file(folder / weights) if is_safe else torch.load(folder / weights, weights_only=True)
            for key, change in tensors.items():
                content.pop(key) if change is None else content.update({key: change(content.get(key))})
            (save_file if is_safe else torch.save)(content, folder / weights)
        return folder

    return make


def spoilt(value):
    value = value.clone()
    value.view(-1)[5] = torch.nan
    return value


@pytest.mark.parametrize(
    "name, config, tensors, wanted",
    [
        ("standard", {"architecture": "temporal"}, {}, "architecture: got 'temporal'; wanted one of standard, topk"),
        ("standard", {"architecture": "matching_pursuit"}, {}, "architecture: got 'matching_pursuit'"),
        ("standard", {"d_sae": 0}, {}, "d_sae: got 0; wanted a positive integer"),
        ("standard", {"d_in": 9}, {}, "W_enc: got torch.float32 [8, 24]; wanted floating [d_in=9, d_sae=24]"),
        ("standard", {"apply_b_dec_to_input": "yes"}, {}, "apply_b_dec_to_input: got 'yes'; wanted true or false"),
        ("transcoder", {"apply_b_dec_to_input": True}, {}, "apply_b_dec_to_input: got True; wanted false, for b_dec"),
        (
            "standard",
            {},
            {"W_enc": lambda w: w.T.contiguous()},
            "wanted floating [d_in=8, d_sae=24], the other way round",
        ),
        (
            "standard",
            {},
            {"W_dec": lambda w: w.T.contiguous()},
            "wanted floating [d_sae=24, d_out=8], the other way round",
        ),
        ("standard", {}, {"b_enc": None}, "b_enc: got no such tensor, but W_dec, W_enc, b_dec; wanted it"),
        (
            "standard",
            {},
            {"extra": lambda _: torch.ones(3)},
            "also holds extra; wanted only W_dec, W_enc, b_dec, b_enc",
        ),
        ("standard", {}, {"b_dec": spoilt}, "b_dec: 1 of 8 entries are NaN or Inf"),
        ("standard", {}, {"b_dec": lambda b: b.int()}, "b_dec: got torch.int32 [8]; wanted floating [d_out=8]"),
        ("jumprelu", {}, {"threshold": None}, "threshold: got no such tensor"),
        ("topk", {"k": None}, {}, "k: got None; wanted a positive integer"),
        (
            "standard",
            {"normalize_activations": "covariance_whitening"},
            {},
            "got 'covariance_whitening'; wanted 'none'",
        ),
        ("standard", {"normalize_activations": "layer_norm"}, {}, "token by token (layer_norm), which weights cannot"),
        ("standard", {"normalize_activations": "constant_norm_rescale"}, {}, "token by token (constant_norm_rescale)"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, {}, "input_scale: "),
        ("transcoder", {"normalize_activations": "layer_norm"}, {}, "'layer_norm'; wanted 'none' with a transcoder"),
        ("old_standard", {"activation_fn_str": "tanh-relu"}, {}, "activation_fn: got 'tanh-relu'; wanted 'relu' or"),
        (
            "old_standard",
            {},
            {"scaling_factor": lambda _: torch.full((24,), 2.0)},
            "got False; wanted true, for scaling",
        ),
    ],
)
def test_sae_lens(copy, name, config, tensors, wanted):
    folder = copy(f"sae_lens/{name}", config, tensors)
    with pytest.raises(ValueError) as caught:
        ms.load(folder)
    assert wanted in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, config, tensors, wanted",
    [
        (
            "AutoEncoder",
            {"dict_class": "IdentityDict"},
            {},
            "dict_class: got 'IdentityDict'; wanted one of AutoEncoder",
        ),
        ("AutoEncoder", {"dict_class": "AutoEncoderNew"}, {}, "decoder.bias: got no such tensor"),
        ("BatchTopKSAE", {}, {"threshold": lambda _: torch.tensor(-1.0)}, "threshold: got -1.0; wanted 0 or more"),
        ("BatchTopKSAE", {}, {"threshold": None}, "threshold: got no such tensor"),
        ("AutoEncoderTopK", {"k": None}, {"k": None}, "k: got None; wanted a positive integer"),
        ("MatryoshkaBatchTopKSAE", {}, {"group_sizes": lambda _: torch.tensor([6, 6])}, "the sum d_sae=24"),
        (
            "JumpReluAutoEncoder",
            {},
            {"W_dec": lambda w: w.T.contiguous()},
            "wanted floating [d_sae=24, d_in=8], the other",
        ),
        ("GatedAutoEncoder", {}, {"r_mag": spoilt}, "r_mag: 1 of 24 entries are NaN or Inf"),
    ],
)
def test_dictionary_learning(copy, name, config, tensors, wanted):
    folder = copy(f"dictionary_learning/{name}", config, tensors, "config.json", "ae.pt")
    with pytest.raises(ValueError) as caught:
        ms.load(folder)
    assert wanted in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "name, config, wanted",
    [
        ("topk/layers.0", {"activation": "softmax"}, "activation: got 'softmax'; wanted one of topk, groupmax"),
        ("topk/layers.0", {"signed": True}, "signed: got True; wanted false"),
        ("topk/layers.0", {"transcode": "yes"}, "transcode: got 'yes'; wanted true or false"),
        ("topk_skip/layers.0.mlp", {"skip_connection": False}, "also holds W_skip; wanted only"),
        ("groupmax/layers.0.mlp", {"transcode": True}, "activation: got 'group_max' with a transcoder"),
        ("topk/layers.0", {"num_latents": 12}, "encoder.weight: got torch.float32 [24, 8]; wanted floating [d_sae=12"),
    ],
)
def test_sparsify(copy, name, config, wanted):
    folder = copy(f"sparsify/{name}", config)
    with pytest.raises(ValueError) as caught:
        ms.load(folder)
    assert wanted in str(caught.value)


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_does_not_run(copy, tmp_path, writer):
    folder, ran = copy("dictionary_learning/AutoEncoder", {}, {}, "config.json"), tmp_path / "ran"
    content = {"encoder.weight": torch.zeros(24, 8), "bias": Code(ran)}
    if writer == "torch":
        torch.save(content, folder / "ae.pt")
    else:
        (folder / "ae.pt").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"names the Python object .*whose code would run"):
        ms.load(folder)
    assert not ran.exists()


@pytest.mark.parametrize("name, weights", [("sae_lens/topk", WEIGHTS), ("dictionary_learning/AutoEncoder", "ae.pt")])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_told(copy, name, weights, share):
    folder = copy(name, file="cfg.json" if "lens" in name else "config.json")
    content = (folder / weights).read_bytes()
    (folder / weights).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match="is cut short or altered") as caught:
        ms.load(folder)
    assert weights in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", [1, 2, 3, 10, 21, 22, 23, 60])
@pytest.mark.parametrize("name", ["AutoEncoderTopK", "GatedAutoEncoder"])
def test_the_last_bytes_are_missing(copy, name, missing):
    """The end of an archive says where its directory begins: cut there, PyTorch seeks outside of the file."""
    folder = copy(f"dictionary_learning/{name}", file="config.json")
    content = (folder / "ae.pt").read_bytes()
    (folder / "ae.pt").write_bytes(content[:-missing])
    with pytest.raises(ValueError, match=r"ae.pt' is cut short or altered"):
        ms.load(folder)


def test_the_state_of_an_unfinished_training_is_told(copy):
    folder = copy("dictionary_learning/AutoEncoder", file="config.json")
    torch.save({"step": 3, "ae": {}, "optimizer": {}, "config": {}}, folder / "ae.pt")
    with pytest.raises(ValueError, match="optimizer: got 'the state of an unfinished training'"):
        ms.load(folder)


def test_an_unknown_folder_lists_its_files_and_the_formats(tmp_path):
    (tmp_path / "weights.bin").touch()
    (tmp_path / "more").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds more/, weights\.bin; wanted a folder") as caught:
        ms.load(tmp_path)
    assert "SAELens (cfg.json + sae_weights.safetensors)" in str(caught.value)
    assert "sparsify (" in str(caught.value) and "dictionary_learning (ae.pt + config.json)" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no folder or file"):
        ms.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file of no known format"):
        ms.load(tmp_path / "weights.bin")


def test_a_scale_that_the_files_lack_can_be_given(copy):
    there = FIXTURES / "sae_lens/standard_scaled"
    folder = copy("sae_lens/standard_scaled")
    (folder / "activation_scaler.json").unlink()
    with pytest.raises(ValueError, match=r"input_scale: .*wanted input_scale=√d_in / mean norm"):
        ms.load(folder)
    x = torch.randn(3, 8)
    assert torch.equal(ms.load(folder, input_scale=0.37)(x), ms.load(there)(x))
    assert ms.load(there).metadata["loaded_from"]["folded"] == ["inputs × 0.37, outputs / 0.37"]


@pytest.mark.parametrize("given", [{"k": 3}, {"input_scale": 2.0}, {"inputs_normalised": True}])
def test_what_is_given_without_need_is_refused(tmp_path, given):
    (name,) = given
    with pytest.raises(ValueError, match=f"{name}: got .* Leave it out"):
        ms.load(FIXTURES / "sae_lens/standard", **given)
    ms.save(ms.TopKSAE(8, 16, 2), tmp_path)
    with pytest.raises(ValueError, match=f"{name}.* written by monosem. Leave them out"):
        ms.load(tmp_path, **given)


@pytest.mark.parametrize("given", [{"k": 0}, {"k": True}, {"input_scale": 0}, {"input_scale": float("nan")}])
def test_what_is_given_is_checked(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"^{name}: got .*; wanted"):
        ms.load(FIXTURES / "sae_lens/standard", **given)


@pytest.mark.parametrize(
    "name, file", [("sae_lens/topk", "cfg.json"), ("dictionary_learning/AutoEncoder", "config.json")]
)
def test_a_damaged_configuration_is_told(copy, name, file):
    folder = copy(name, file=file)
    (folder / file).write_text((folder / file).read_text()[:-9])
    with pytest.raises(ValueError, match=f"{file}' is cut short or altered, it is not JSON"):
        ms.load(folder)
    (folder / file).write_text("{}")
    with pytest.raises(ValueError, match=rf"{file}', (d_in|trainer): got None; wanted "):
        ms.load(folder)


def test_weights_without_their_configuration_are_told(copy):
    folder = copy("dictionary_learning/AutoEncoder", file="config.json")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*config\.json'; wanted the configuration of a trainer"):
        ms.load(folder)


def test_the_weights_of_a_checkpoint_are_read_by_their_own_name(copy):
    folder, x = copy("dictionary_learning/AutoEncoder", file="config.json"), torch.randn(3, 8)
    (folder / "checkpoints").mkdir()
    (folder / "ae.pt").rename(folder / "checkpoints" / "ae_500.pt")
    loaded = ms.load(folder / "checkpoints" / "ae_500.pt")
    assert torch.equal(loaded(x), ms.load(FIXTURES / "dictionary_learning/AutoEncoder")(x))


def test_a_factor_that_was_finetuned_scales_what_the_decoder_gets(copy):
    factor = torch.linspace(0.5, 2, 24)
    folder = copy("sae_lens/old_standard", {"finetuning_scaling_factor": True}, {"scaling_factor": lambda _: factor})
    plain, sae, x = ms.load(FIXTURES / "sae_lens/old_standard"), ms.load(folder), torch.randn(5, 8)
    f = sae.encode(x).to_dense()
    assert torch.equal(f, plain.encode(x).to_dense())
    torch.testing.assert_close(sae(x), (f * factor) @ plain.W_dec + plain.b_dec)


def test_a_name_at_hugging_face_is_told_to_be_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"A repository of Hugging Face is read by monosem\.from_pretrained"):
        ms.load("google/gemma-scope-2b-pt-res")
