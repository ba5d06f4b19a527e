"""The script for SAEDashboard and delphi: what it hands over, and that it tells a difference from our activations."""

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import dashboards
import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.data.native import save_folder

CONTEXT = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboards")
    own = tiny_model()
    save_folder(folder / "model", own.module, own.tokenizer)
    ms.save(ms.TopKSAE(32, 48, k=4, seed=0), folder / "run", {"model": str(folder / "model"), "hook_name": HOOK})
    lines = [json.dumps({"text": d.text, "source": d.source}) for d in tiny_documents(60)]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


class Runner:
    """Encodes as SAEDashboard does where activations depend on each other, and shows one token of each context."""

    error = 0.0

    def __init__(self, config):
        self.config = config

    def run(self, encoder, model, tokens):
        encoder.fold_W_dec_norm()
        assert not encoder.hook_z_reshaping_mode and encoder.activation_fn.k == 4 and encoder.W_dec.shape == (48, 32)
        acts = encoder.encode(model.activations(tokens, self.config.hook_point))
        features = {}
        for f in self.config.features:
            shown = []
            for row, at in enumerate(acts[:, 3:-2, f].argmax(1).tolist()):  # two tokens are shown on either side
                window = acts[row, at + 1 : at + 6, f].detach() + self.error
                shown.append(
                    SimpleNamespace(original_index=row, qualifying_token_index=at + 3, feat_acts=window.tolist())
                )
            groups = [SimpleNamespace(seq_data=shown)]
            features[f] = SimpleNamespace(sequence_data=SimpleNamespace(seq_group_data=groups))
        return SimpleNamespace(feature_data_dict=features)


class Cache:
    """Keeps what is above 1e-5, as delphi's ``LatentCache``; the model is called by the caller's hook."""

    def __init__(self, model, encoders, batch_size):
        self.module, self.encoders = model, encoders

    def run(self, n_tokens, tokens):
        assert n_tokens == tokens.numel()
        ((hook, encode),) = self.encoders.items()
        acts = encode(self.module(tokens, hook)).detach()
        places = acts.abs() > 1e-5
        self.cache = SimpleNamespace(latent_locations={hook: places.nonzero()}, latent_activations={hook: acts[places]})
        Dataset.records = [
            SimpleNamespace(
                latent=SimpleNamespace(latent_index=f), examples=[SimpleNamespace(max_activation=acts[..., f].max())]
            )
            for f in places.flatten(0, 1).any(0).nonzero()[:, 0].tolist()
        ]

    def save_splits(self, n_splits, save_dir):
        self.saved = save_dir

    def save_config(self, save_dir, cfg, model_name):
        assert save_dir == self.saved and cfg.cache_ctx_len == CONTEXT


class Dataset:
    records: ClassVar[list[SimpleNamespace]] = []

    def __init__(self, raw_dir, sampler_cfg, constructor_cfg, tokenizer, modules):
        assert constructor_cfg.example_ctx_len == CONTEXT and modules == [HOOK] and tokenizer is not None

    def __iter__(self):
        return iter(self.records)


@pytest.fixture
def libraries(monkeypatch):
    holds = {
        "sae_dashboard": {},
        "sae_dashboard.data_writing_fns": {
            "save_feature_centric_vis": lambda sae_vis_data, filename: filename.write_text("<html>")
        },
        "sae_dashboard.sae_vis_data": {"SaeVisConfig": SimpleNamespace},
        "sae_dashboard.sae_vis_runner": {"SaeVisRunner": Runner},
        "sae_lens": {},
        "sae_lens.saes": {},
        "sae_lens.saes.topk_sae": {"TopK": lambda k: SimpleNamespace(k=k)},
        "delphi": {},
        "delphi.config": dict.fromkeys(("CacheConfig", "ConstructorConfig", "SamplerConfig"), SimpleNamespace),
        "delphi.latents": {"LatentCache": Cache, "LatentDataset": Dataset},
    }
    for name, values in holds.items():
        module = ModuleType(name)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(dashboards, "version", lambda name: f"of {name}")
    monkeypatch.setattr("monosem.data.models.as_transformer_lens", lambda model: model)


def call(monkeypatch, capsys, run, out, name):
    words = ["dashboards.py", str(run / "run"), "--out", str(out), "--only", name, "--text", str(run / "text.jsonl")]
    monkeypatch.setattr(sys, "argv", [*words, "--context", str(CONTEXT), "--contexts", "3", "--features", "5"])
    dashboards.main()
    return json.loads(capsys.readouterr().out)[name]


@pytest.mark.parametrize("error", [0.0, 0.25])
def test_sae_dashboard(libraries, monkeypatch, capsys, run, tmp_path, error):
    monkeypatch.setattr(Runner, "error", error)
    found = call(monkeypatch, capsys, run, tmp_path, "sae_dashboard")
    assert found["version"] == "of sae-dashboard" and found["features"] == 5 and found["sequences"] == 15
    assert found["largest_difference"] == pytest.approx(error, abs=1e-6) and found["page_bytes"] == len("<html>")


def test_delphi(libraries, monkeypatch, capsys, run, tmp_path):
    load = ms.load_model

    class Called:
        """A model of ours, whose module is what the stand-in calls."""

        def __init__(self, name):
            self.own = load(name)
            self.module = self.own.activations

        def __getattr__(self, name):
            return getattr(self.own, name)

    monkeypatch.setattr(ms, "load_model", Called)
    found = call(monkeypatch, capsys, run, tmp_path, "delphi")
    assert found["version"] == "of eai-delphi" and found["tokens"] == 3 * CONTEXT
    assert found["cached"] == 3 * CONTEXT * 4 and found["largest_difference"] == 0
    assert found["latents_with_examples"] > 0 and found["largest_difference_of_maxima"] == 0
    assert isinstance(found["largest_activation"], float) and torch.tensor(found["largest_activation"]) > 0
