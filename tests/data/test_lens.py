"""Our models on TransformerLens and TransformerLens' models behind our adapter, on the version that is installed.

test_lens_39.py runs this file again on TransformerLens 3.9.
"""

import os

import pytest
import torch
from tiny import HOOK, TEXTS, tiny_model

from monosem.data import models
from monosem.data.adapter import Model
from monosem.data.harvest import ActivationStream, harvest

REASON = "TransformerLens is not installed (pip install transformer-lens)"
if os.environ.get("MONOSEM_REQUIRE_LENS"):
    import transformer_lens  # noqa: F401
else:
    pytest.importorskip("transformer_lens", reason=REASON, exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def ours() -> Model:
    return tiny_model(n_layers=2)


@pytest.fixture(scope="module")
def lens(ours, no_network):
    return models.as_transformer_lens(ours)


@pytest.fixture(scope="module")
def wrapped(lens) -> Model:
    return models.load_model(lens)


@pytest.fixture(scope="module")
def no_network():
    """Any connection fails the test."""

    def refuse(*_):
        raise AssertionError("tried to use the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket.connect", refuse)
        patch.setattr("socket.getaddrinfo", refuse)
        yield


@pytest.fixture
def tokens():
    return torch.randint(1, 300, (3, 32), generator=torch.Generator().manual_seed(0))


def test_expected_version():
    required = os.environ.get("MONOSEM_EXPECT_LENS")
    from importlib.metadata import version

    import transformer_lens

    assert not required or version("transformer-lens").startswith(required), (
        version("transformer-lens"),
        transformer_lens,
    )


def test_logits_match(ours, lens, tokens):
    with torch.no_grad():
        torch.testing.assert_close(lens(tokens, return_type="logits"), ours.module(tokens), atol=2e-5, rtol=1e-5)


def test_every_hook_matches(ours, wrapped, tokens):
    for name in ours.hook_names:
        got = wrapped.activations(tokens, name)
        torch.testing.assert_close(
            got, ours.activations(tokens, name), atol=2e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert wrapped.width(name) == ours.width(name)
    assert wrapped.activations(tokens, "blocks.0.attn.hook_z").shape == (3, 32, 16)


def test_losses_match(ours, wrapped, tokens, monkeypatch):
    monkeypatch.setattr("monosem.data.adapter._LOGITS_AT_ONCE", 7 * 300)
    torch.testing.assert_close(wrapped.token_losses(tokens), ours.token_losses(tokens), atol=2e-5, rtol=1e-5)
    change = {HOOK: lambda x: 0.5 * x + 0.1, "blocks.1.hook_mlp_out": torch.zeros_like}
    torch.testing.assert_close(
        wrapped.token_losses(tokens, change), ours.token_losses(tokens, change), atol=2e-5, rtol=1e-5
    )
    heads = wrapped.token_losses(tokens, {"blocks.0.attn.hook_z": lambda x: x})  # [B, T, heads, d_head] there
    torch.testing.assert_close(heads, ours.token_losses(tokens), atol=2e-5, rtol=1e-5)


def test_losses_are_those_of_transformer_lens(lens, wrapped, tokens):
    with torch.no_grad():
        theirs = lens(tokens, return_type="loss")
    torch.testing.assert_close(wrapped.token_losses(tokens).mean(), theirs, atol=2e-5, rtol=1e-5)


def test_logit_directions_match(ours, wrapped):
    for name in (HOOK, "blocks.1.mlp.hook_post", "blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out"):
        torch.testing.assert_close(wrapped.logit_directions(name), ours.logit_directions(name), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"'blocks.0.attn.hook_z' has no linear path"):
        wrapped.logit_directions("blocks.0.attn.hook_z")


def test_forward_stops_and_leaves_no_hook(lens, wrapped, tokens):
    def never(*_):
        raise AssertionError("went on beyond the hook")

    handle = lens.blocks[1].register_forward_pre_hook(never)
    try:
        wrapped.activations(tokens, HOOK)
    finally:
        handle.remove()
    assert not [n for n, h in lens.hook_dict.items() if h.fwd_hooks]


def test_errors(wrapped, tokens):
    with pytest.raises(ValueError, match=r"no hook 'blocks.0.mlp.hook_pots'; nearest: blocks.0.mlp.hook_post, "):
        wrapped.activations(tokens, "blocks.0.mlp.hook_pots")
    with pytest.raises(ValueError, match="one vector for each token"):
        wrapped.activations(tokens, "blocks.0.attn.hook_pattern")
    with pytest.raises(ValueError, match=r"blocks.0.attn.hook_result"):  # off unless configured
        wrapped.activations(tokens, "blocks.0.attn.hook_result")
    with pytest.raises(ValueError, match=r"blocks.0.attn.hook_result"):
        wrapped.token_losses(tokens, {"blocks.0.attn.hook_result": lambda x: x})


def test_text(ours, lens, wrapped):
    assert wrapped.bos_id == ours.bos_id
    for text in TEXTS.values():
        assert wrapped.encode(text) == ours.encode(text)
        assert lens.to_tokens(text).tolist() == [[ours.bos_id, *ours.encode(text)][:32]]  # it cuts at n_ctx
        assert wrapped.decode(wrapped.encode(text)) == text
    assert [wrapped.token_str(i) for i in range(300)] == [ours.token_str(i) for i in range(300)]


def test_generation(ours, lens, wrapped):
    prompt = ours.encode("the quick")
    assert wrapped.generate(prompt, 8, temperature=0) == ours.generate(prompt, 8, temperature=0)
    text = lens.generate("the quick", max_new_tokens=4, verbose=False, do_sample=False)
    assert text.startswith("the quick") and text == ours.decode(ours.generate(prompt, 4, temperature=0)[1:])


def test_unknown_name_is_a_clear_error(no_network):
    with pytest.raises(ValueError, match="model: 'no-such-model' is neither a bundled model nor a folder, and transf"):
        models.load_model("no-such-model")


@pytest.mark.parametrize("name, meant", [("gpt2-smal", "gpt2-small"), ("Gemma-2-2B-it", "gemma-2-2b-it")])
def test_a_misspelled_name_gets_suggestions(name, meant, no_network):
    with pytest.raises(ValueError, match=f"Did you mean .*{meant}"):
        models.load_model(name)


def test_lens_object_passes_through(lens, wrapped):
    assert models.as_transformer_lens(wrapped) is lens and models.as_transformer_lens(lens) is lens


def test_harvest_and_stream(ours, wrapped, tmp_path):
    rows = torch.randint(1, 300, (9, 32), generator=torch.Generator().manual_seed(1))
    stored, streamed = [], []
    for model, folder in ((ours, tmp_path / "ours"), (wrapped, tmp_path / "lens")):
        stored.append(harvest(model, HOOK, rows, folder, "fp32", progress=False).read(range(9 * 31))[0])
        streamed.append(torch.cat(list(ActivationStream(model, HOOK, rows, batch_size=50, epochs=1))))
    torch.testing.assert_close(*stored, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(*streamed, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="nearest"):
        harvest(wrapped, "blocks.0.mlp.hook_pots", rows, tmp_path / "none", progress=False)


def other_models(tokenizer):
    """Models of TransformerLens' own making, of every norm that it has here."""
    from importlib.metadata import version

    import transformer_lens as library

    shape = dict(n_layers=2, d_model=16, d_mlp=32, d_head=8, n_heads=2, n_ctx=32, d_vocab=300, act_fn="gelu", seed=1)
    if version("transformer-lens").startswith("3."):
        for norm in ("LN", "LNPre", "RMS", "RMSPre", None):
            cfg = library.HookedTransformerConfig(**shape, normalization_type=norm, device="cpu")
            yield f"hooked {norm}", library.HookedTransformer(cfg, tokenizer=tokenizer)
        gemma = dict(normalization_type="RMS", final_rms=True, use_normalization_before_and_after=True, gated_mlp=True)
        cfg = library.HookedTransformerConfig(**shape, **gemma, device="cpu")
        yield "hooked, norms behind its parts", library.HookedTransformer(cfg, tokenizer=tokenizer)
        return
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_inner=32, n_embd=16, vocab_size=300, n_positions=32))
    yield "gpt2", library.TransformerBridge.boot_transformers("gpt2", hf_model=gpt2, tokenizer=tokenizer, device="cpu")
    cfg = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=300,
        max_position_embeddings=32,
    )
    name = "HuggingFaceTB/SmolLM-135M"
    llama = library.TransformerBridge.boot_transformers(
        name, hf_model=LlamaForCausalLM(cfg), tokenizer=tokenizer, device="cpu"
    )
    yield "llama", llama


def test_other_models(lens, tokens, no_network):
    """Losses are theirs, and logits move along ``logit_directions`` while the scale of the final norm holds still."""
    generator = torch.Generator().manual_seed(0)
    for kind, module in other_models(lens.tokenizer):
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.add_(0.2 * torch.randn(p.shape, generator=generator) * (p.ndim == 1 or "ln" in name))
            model = models.load_model(module)
            theirs = module(tokens, return_type="loss")
        torch.testing.assert_close(model.token_losses(tokens).mean(), theirs, atol=2e-5, rtol=1e-5)
        x = model.activations(tokens[:1], "blocks.1.hook_resid_post")[0, -1].double()
        basis = torch.linalg.qr(torch.stack([x, x - x.mean()], 1))[0]  # moves that leave the scale alone
        move = torch.randn(16, generator=generator).double()
        move = (move - basis @ (basis.T @ move)).float()

        def logits(step, module=module, move=move):
            edit = ("blocks.1.hook_resid_post", lambda v, hook: v + step * move)
            return module.run_with_hooks(tokens[:1], return_type="logits", fwd_hooks=[edit])[0, -1].detach()

        moved = logits(0.01) - logits(-0.01)
        expected = move @ model.logit_directions("blocks.1.hook_resid_post")
        assert torch.cosine_similarity(moved, expected, dim=0) > 0.999, kind
        if "behind" in kind:
            with pytest.raises(ValueError, match=r"'blocks.1.mlp.hook_post' has no linear path"):
                model.logit_directions("blocks.1.mlp.hook_post")
            continue
        through = model.logit_directions("blocks.1.mlp.hook_post")
        assert through.shape == (32, 300)
        torch.testing.assert_close(
            through, (model._mlp_out(1) @ model.logit_directions("blocks.1.hook_resid_post")).detach()
        )


@pytest.mark.parametrize("name", models.BUNDLED)
def test_bundled_model(name, no_network):
    ours = models.load_model(name)
    lens = models.as_transformer_lens(name)
    tokens = torch.randint(1, 8192, (2, 256), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(lens(tokens, return_type="logits"), ours.module(tokens), atol=1e-4, rtol=1e-5)
    assert lens.generate("The king", max_new_tokens=8, verbose=False).startswith("The king")


@pytest.mark.parametrize("prepend", [True, False])
def test_a_tokenizer_that_pads_on_the_left_changes_no_row(ours, no_network, tokens, prepend):
    """BOS serves as padding: TransformerLens 3.9 would mask it where it begins a row, and move every position."""
    converted = models.as_transformer_lens(ours)
    converted.tokenizer.padding_side = "left"
    converted.cfg.default_prepend_bos = prepend
    tokens[:, 0] = ours.bos_id
    tokens[0, 1] = tokens[1, 9] = ours.bos_id
    wrapped = models.load_model(converted)
    torch.testing.assert_close(wrapped.activations(tokens, HOOK), ours.activations(tokens, HOOK), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(wrapped.token_losses(tokens), ours.token_losses(tokens), atol=1e-4, rtol=1e-4)
