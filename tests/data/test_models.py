"""The adapter over our own models: hooks, losses, directions, text, and the errors of bad input."""

import json
import math

import numpy as np
import pytest
import torch
from tiny import HOOK, TEXTS, tiny_documents, tiny_model
from torch.nn import functional as F

from monosem.data import adapter, models, native
from monosem.data.sample import sample_documents
from monosem.data.text import Document
from monosem.data.token_rows import pack_rows


@pytest.fixture(scope="module")
def model():
    return tiny_model(n_layers=2)


@pytest.fixture
def tokens():
    return torch.randint(1, 300, (3, 32), generator=torch.Generator().manual_seed(0))


def test_activations_are_those_of_the_forward_pass(model, tokens):
    seen = {}
    logits = model.module(tokens, {n: lambda v, n=n: seen.__setitem__(n, v) for n in model.hook_names})
    for name in model.hook_names:
        got = model.activations(tokens, name)
        assert torch.equal(got, seen[name])
        assert model.width(name) == got.shape[-1]
    assert logits.shape == (3, 32, 300)
    assert not got.requires_grad


def test_forward_stops_at_the_hook(model, tokens):
    def never(*_):
        raise AssertionError("went on beyond the hook")

    handle = model.module.blocks[1].register_forward_pre_hook(never)
    try:
        model.activations(tokens, "blocks.0.mlp.hook_post")
        with pytest.raises(AssertionError, match="went on"):
            model.activations(tokens, "blocks.1.mlp.hook_post")
    finally:
        handle.remove()


def test_token_losses(model, tokens, monkeypatch):
    logits = model.module(tokens)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(3, 31)
    torch.testing.assert_close(model.token_losses(tokens), expected.detach())
    monkeypatch.setattr("monosem.data.adapter._LOGITS_AT_ONCE", 7 * 300)  # seven rows of logits at a time
    torch.testing.assert_close(model.token_losses(tokens), expected.detach())


def test_token_losses_keep_few_logits(model, tokens, monkeypatch):
    monkeypatch.setattr("monosem.data.adapter._LOGITS_AT_ONCE", 5 * 300)
    rows, unembed = [], model._unembed
    monkeypatch.setattr(model, "_unembed", lambda h: rows.append(len(h)) or unembed(h))
    model.token_losses(tokens)
    assert max(rows) == 5 and sum(rows) == 3 * 31


@pytest.mark.parametrize(("d_vocab", "rows"), [(300, (1 << 20) // 300), (8192, 128), (50257, 83), (1 << 30, 1)])
def test_tokens_whose_logits_exist_at_one_time_on_a_cpu(d_vocab, rows):
    assert adapter._rows_at_once(d_vocab, on_cpu=True) == rows <= adapter._rows_at_once(d_vocab, on_cpu=False)


def test_compared_losses_are_token_losses_and_divergences(model, tokens, monkeypatch):
    noise = torch.randn(3, 32, model.width(HOOK), generator=torch.Generator().manual_seed(4))
    runs = [{HOOK: lambda x: x + noise}, {HOOK: lambda x: x}]
    logits = [model.module(tokens, run)[:, :-1].double().detach() for run in ({}, runs[0])]
    log_p, log_q = (each.log_softmax(-1) for each in logits)
    expected = (log_p.exp() * (log_p - log_q)).sum(-1)
    for rows in (1 << 20, 7):
        monkeypatch.setattr("monosem.data.adapter._LOGITS_AT_ONCE", rows * 300)
        losses, (moved, still) = model.compared_losses(tokens, runs)
        assert all(torch.equal(a, model.token_losses(tokens, b)) for a, b in zip(losses, [None, *runs], strict=True))
        torch.testing.assert_close(moved.double(), expected, rtol=1e-4, atol=1e-6)
        assert moved.mean() > 0.01 and not still.any()


def test_replace(model, tokens):
    same = model.token_losses(tokens, {HOOK: lambda x: x})
    torch.testing.assert_close(same, model.token_losses(tokens))
    zeroed = model.token_losses(tokens, {HOOK: torch.zeros_like, "blocks.1.mlp.hook_post": torch.zeros_like})
    logits = model.module(tokens, {n: torch.zeros_like for n in (HOOK, "blocks.1.mlp.hook_post")})
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(3, 31)
    torch.testing.assert_close(zeroed, expected.detach())
    assert not torch.allclose(zeroed, same)
    with pytest.raises(
        ValueError, match=r"replace\['blocks.0.mlp.hook_post'\]: got a tensor of shape \(3, 32, 3\); wanted"
    ):
        model.token_losses(tokens, {HOOK: lambda x: x[..., :3]})


def test_unknown_hook_names_the_nearest(model, tokens):
    with pytest.raises(ValueError, match=r"no hook 'blocks.0.mlp.hook_pots'; nearest: blocks.0.mlp.hook_post, "):
        model.activations(tokens, "blocks.0.mlp.hook_pots")
    with pytest.raises(ValueError, match="no hook 'zzz'; nearest: "):
        model.token_losses(tokens, {"zzz": lambda x: x})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3), r"got torch.int64|got torch.float32 of shape \(3,\); wanted integers"),
        (torch.zeros(1, 33).long(), r"shape \(1, 33\); wanted integers \[contexts, at most 32 tokens\]"),
        (torch.zeros(1, 0).long(), r"shape \(1, 0\)"),
        (torch.full((1, 4), 300), "got values from 300 to 300; wanted 0 ≤ token < 300"),
        (torch.full((1, 4), -1), "got values from -1 to -1"),
    ],
)
def test_bad_tokens(model, bad, message):
    with pytest.raises(ValueError, match=message):
        model.activations(bad, HOOK)


def test_logit_directions_are_the_slope_of_the_logits(model, tokens):
    """With the scale of the final LayerNorm held still, logits move by direction · activation change / scale."""
    module, name = model.module, "blocks.1.mlp.hook_post"
    resid = model.activations(tokens[:1, :5], "blocks.1.hook_resid_mid")[0, -1]
    post = model.activations(tokens[:1, :5], name)[0, -1]
    out = module.blocks[1].mlp_out

    def centred(post):
        x = resid + out(post)
        return x - x.mean()

    scale = centred(post).pow(2).mean().add(module.cfg.ln_eps).sqrt().detach()

    def logits(post):
        return (centred(post) / scale * module.ln_final.weight + module.ln_final.bias) @ module.W_U + module.b_U

    torch.testing.assert_close(logits(post).detach(), module(tokens[:1, :5])[0, -1].detach(), atol=1e-5, rtol=1e-5)
    slope = torch.autograd.functional.jacobian(logits, post).T * scale
    torch.testing.assert_close(model.logit_directions(name), slope, atol=1e-5, rtol=1e-5)


def test_logit_directions_of_other_hooks(model):
    resid = model.logit_directions("blocks.1.hook_resid_post")
    assert resid.shape == (16, 300)
    through_mlp = model.module.blocks[0].mlp_out.weight.T @ resid
    torch.testing.assert_close(model.logit_directions(HOOK), through_mlp.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.logit_directions("unembed.hook_in"), model.module.W_U.detach())
    with pytest.raises(ValueError, match=r"'blocks.0.mlp.hook_pre' has no linear path to the logits; wanted"):
        model.logit_directions("blocks.0.mlp.hook_pre")


def test_generate(model):
    prompt = model.encode("the quick")
    out = model.generate(prompt, 40, temperature=1.0, seed=3)
    assert out[: len(prompt) + 1] == [model.bos_id, *prompt] and len(out) == len(prompt) + 41  # beyond n_ctx = 32
    assert out == model.generate([model.bos_id, *prompt], 40, temperature=1.0, seed=3)
    assert out != model.generate(prompt, 40, temperature=1.0, seed=4)
    greedy = model.generate(prompt, 1, temperature=0)
    assert greedy[-1] == int(model.module(torch.tensor([greedy[:-1]]))[0, -1].argmax())
    silenced = model.generate(prompt, 5, temperature=0, replace={"blocks.1.hook_resid_post": torch.zeros_like})
    assert len(set(silenced[-5:])) == 1
    with pytest.raises(ValueError, match="wanted neither below 0"):
        model.generate(prompt, 5, temperature=-1)


def test_text_round_trip(model):
    for text in [*TEXTS.values(), "unseen Ж 漢字 🙂", ""]:
        assert model.decode(model.encode(text)) == text
    assert model.encode_batch(["a", "b c"]) == [model.encode("a"), model.encode("b c")]


def test_token_str(model):
    assert model.token_str(model.bos_id) == "<|bos|>"
    ids = model.encode("漢")
    assert "".join(model.token_str(i) for i in ids) == "⟨E6⟩⟨BC⟩⟨A2⟩"
    assert "".join(model.token_str(i) for i in model.encode(" the\n")) == " the\n"
    with pytest.raises(ValueError, match="got 300; wanted 0 ≤ token < 300"):
        model.token_str(300)


def test_pack_rows(model):
    documents = tiny_documents()
    rows = pack_rows(documents, model)
    assert rows.sources == sorted(TEXTS) and rows.tokens.dtype == torch.int32 and rows.source.dtype == torch.uint8
    assert rows.tokens.shape == rows.source.shape == (len(rows), 32)
    assert (rows.tokens[:, 0] == model.bos_id).all() and torch.equal(rows.source[:, 0], rows.source[:, 1])
    stream = [i for d in documents for i in [model.bos_id, *model.encode(d.text)]]
    labels = [rows.sources.index(d.source) for d in documents for _ in range(len(model.encode(d.text)) + 1)]
    at = 0
    for row, source in zip(rows.tokens.tolist(), rows.source.tolist(), strict=True):
        at += stream[at] == model.bos_id  # the BOS of a row serves the document that begins there
        assert row == [model.bos_id, *stream[at : at + 31]] and source[1:] == labels[at : at + 31]
        at += 31
    assert len(stream) - at < 32
    many_sources = pack_rows([Document(f"s{i:03}", "word " * 9) for i in range(300)], model)
    assert many_sources.source.dtype == torch.int16 and many_sources.source.max() > 255
    with pytest.raises(ValueError, match="got 2 tokens in 1 documents; wanted at least 31, one context of 'tiny'"):
        pack_rows([Document("x", "a")], model)


def test_folder_round_trip(model, tokens, tmp_path):
    native.save_folder(tmp_path / "m", model.module, model.tokenizer)
    again = models.load_model(tmp_path / "m")
    assert again.module.cfg == model.module.cfg and again.encode("the fox") == model.encode("the fox")
    for (name, a), b in zip(again.module.named_parameters(), model.module.parameters(), strict=True):
        assert torch.equal(a, b.to(torch.bfloat16).float()), name
    (tmp_path / "m" / "tokenizer.json").rename(tmp_path / "tokenizer.json")  # shared by several models
    assert models.load_model(str(tmp_path / "m")).name == str(tmp_path / "m")
    assert torch.isfinite(again.token_losses(tokens)).all()


def test_bad_folders(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"holds no model.safetensors; wanted a folder written by `monosem lm train`"
    ):
        models.load_model(tmp_path / "empty")
    (tmp_path / "empty" / "ckpt-250").mkdir()
    with pytest.raises(FileNotFoundError, match="run `monosem lm train` again to resume"):
        models.load_model(tmp_path / "empty")
    native.save_folder(tmp_path / "m", model.module, model.tokenizer)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["digests"], config["sha256"]  # of an older version: nothing but the shapes tells
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"d_mlp": 64}))
    with pytest.raises(ValueError, match=r"do not belong together: blocks.0.mlp_in.bias is \(32,\), wanted \(64,\)"):
        models.load_model(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"depth": 64}))
    with pytest.raises(ValueError, match="is not the configuration of a model"):
        models.load_model(tmp_path / "m")


def test_load_model_refuses_other_folders(model):
    assert models.load_model(model) is model
    with pytest.raises(ValueError, match="model: got int; wanted one of A, B, first/A, first/B, a folder"):
        models.load_model(3)
    small = tiny_model().tokenizer
    with pytest.raises(ValueError, match="tokenizer: it has 300 entries, the model d_vocab=299"):
        native.NativeModel(native.Transformer(native.LMConfig(d_vocab=299, d_model=16)), small)


def test_token_losses_are_positive_and_finite(model, tokens):
    losses = model.token_losses(tokens)
    assert (losses > 0).all() and losses.mean() < 3 * math.log(300)
    assert np.isfinite(losses.numpy()).all()


@pytest.mark.parametrize("name", models.BUNDLED)
def test_bundled_model(name):
    """Shipped with the package: loads without network, predicts the shipped text far better than chance."""
    model = models.load_model(name)
    assert (model.n_ctx, model.d_vocab, model.width(HOOK)) == (256, 8192, 512)
    rows = pack_rows(sample_documents("held_out"), model)
    losses = model.token_losses(rows.tokens[::27])
    assert len(losses) >= 12 and losses.mean() < 4.9
    assert len(model.decode(model.generate(model.encode("The "), 30))) > 40


def test_the_bundled_models_differ_in_their_seed_only():
    a, b = (models.load_model(name) for name in ("A", "B"))
    assert a.module.cfg == b.module.cfg and a.tokenizer.to_str() == b.tokenizer.to_str()
    for (name, p), q in zip(a.module.named_parameters(), b.module.parameters(), strict=True):
        if p.ndim > 1:  # other matrices altogether, not one trained a little further
            r = torch.corrcoef(torch.stack([p.flatten(), q.flatten()]))[0, 1]
            assert abs(r) < 0.3, name
