"""Losses and logit directions of families of tiny random models against the models themselves, on TransformerLens 4."""

import copy
import os

import pytest
import torch
from hf_families import FAMILIES, TOKENS, D, random_model
from tiny import tiny_model
from torch.nn import functional as F

from monosem.data import probes
from monosem.data.lens import _hugging_face, library_version
from monosem.data.models import load_model

REASON = "TransformerLens 4 is not installed (pip install 'transformer-lens>=4')"
if not os.environ.get("MONOSEM_REQUIRE_LENS"):
    pytest.importorskip("transformer_lens", reason=REASON, exc_type=ImportError)
    if int(library_version().split(".")[0]) < 4:
        pytest.skip(REASON, allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")
HOOKS = ("blocks.1.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.1.mlp.hook_post")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return _hugging_face(tiny_model().tokenizer, str(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tokenizer):
    """(name, the model of Hugging Face, the same behind our adapter)."""
    return request.param, *built(request.param, FAMILIES[request.param].settings, tokenizer)


def built(kind, settings, tokenizer):
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    theirs = random_model(kind, **settings)
    bridge = build_bridge_from_module(
        copy.deepcopy(theirs), type(theirs).__name__, hf_config=theirs.config, tokenizer=tokenizer
    )
    return theirs, load_model(bridge)


def test_losses_are_the_models_own(family):
    _, theirs, ours = family
    with torch.no_grad():
        logits = theirs(TOKENS).logits[:, :-1]
    expected = F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten(), reduction="none").view(2, 11)
    torch.testing.assert_close(ours.token_losses(TOKENS), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("hook", HOOKS)
def test_logit_directions_are_the_models_own(family, hook):
    """Against the derivative of the logits. The norm's own scale changes too: along the normalised activation."""
    name, _, ours = family
    if name in ("Gemma2", "Gemma3Text", "Olmo2") and hook.endswith("mlp.hook_post"):
        with pytest.raises(ValueError, match=r"hook_name: 'blocks.1.mlp.hook_post' has no linear path .*; wanted"):
            ours.logit_directions(hook)
        return
    v = torch.randn(ours.width(hook), generator=torch.Generator().manual_seed(1))

    def logits(step: float) -> torch.Tensor:
        def put(x):
            return torch.cat([x[:, :5], x[:, 5:6] + step * v, x[:, 6:]], dim=1)

        hidden = ours._run(TOKENS, ours._replacements(TOKENS, {hook: put}), "unembed.hook_in")
        return ours._unembed(hidden[1, 5:6])[0].double()

    gain, centred, unembedding = ours._final_path()
    at = ours.activations(TOKENS, "ln_final.hook_in")[1, 5]
    at = at - at.mean() if centred else at
    size = float(at.square().mean().sqrt())
    change = (logits(1e-2 * size) - logits(-1e-2 * size)) / (2e-2 * size)
    if name == "Gemma2":  # the cap's own slope
        change = change / (1 - (logits(0.0) / 5.0).square())
    along = (gain * at) @ unembedding
    basis = torch.stack([v @ ours.logit_directions(hook), along], dim=1).double()
    solution = torch.linalg.lstsq(basis, change[:, None]).solution
    assert float((basis @ solution - change[:, None]).norm() / change.norm()) < 1e-3  # differences of float32 logits
    assert float(solution[0]) == pytest.approx(1 / size, rel=1e-3)  # not only the direction


def test_the_middle_of_a_layer_is_read_and_not_written(family):
    """Bridges have a copy of the stream there, for the MLP alone: a replacement does not reach the residual stream."""
    name, _, ours = family
    hook = "blocks.0.hook_resid_mid"
    if hook not in ours.hook_names:
        assert name in ("Cohere", "GPTNeoX")  # attention and MLP side by side
        return
    with pytest.raises(ValueError, match=r"replace: 'blocks.0.hook_resid_mid' .* does not reach the residual stream"):
        ours.token_losses(TOKENS, {hook: torch.zeros_like})
    with pytest.raises(ValueError, match="replace: "):  # what commands ask before they begin
        ours.check_written(hook)
    ours.check_written("blocks.0.hook_resid_post")
    after = ours.logit_directions("blocks.0.hook_resid_post")  # the same stream
    torch.testing.assert_close(ours.logit_directions(hook), after, atol=1e-4, rtol=1e-4)
    assert float(after.abs().max()) > 0.01


def test_a_path_without_effect_is_refused():
    with pytest.raises(ValueError, match="has no effect"):
        probes.multiple(torch.zeros(3, 4), torch.ones(3, 4), torch.float32)


@pytest.mark.parametrize(
    ("kind", "settings", "hook", "why"),
    [
        (
            "OPT",
            FAMILIES["OPT"].settings | dict(word_embed_proj_dim=16),
            HOOKS[0],
            "is 32 wide, its unembedding reads 16",
        ),
        ("Mixtral", FAMILIES["Llama"].settings | dict(num_local_experts=2), HOOKS[2], "its MLP has no one W_out"),
    ],
)
def test_paths_of_another_shape_are_refused(tokenizer, kind, settings, hook, why):
    with pytest.raises(ValueError, match=why):
        built(kind, settings, tokenizer)[1].logit_directions(hook)


def test_a_module_that_is_no_norm_is_refused():
    with pytest.raises(ValueError, match="no LayerNorm, RMS norm or identity"):
        probes.norm_gain(torch.tanh, D, torch.zeros(1))
    for norm, centred in ((torch.nn.LayerNorm(D), True), (torch.nn.RMSNorm(D), False), (torch.nn.Identity(), False)):
        assert probes.norm_gain(norm.double(), D, torch.zeros(1, dtype=torch.float64))[1] is centred


@pytest.mark.parametrize("change", [lambda y: y + 0.1 * y.square(), lambda y: y.clamp(min=0), lambda y: y[:, :-1]])
def test_logits_of_no_known_form_are_refused(change):
    u = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="unembedding"):
        probes.logit_scale(u, change(u), [30.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_and_cap_are_found(dtype):
    u = torch.randn(4, 500, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert probes.logit_scale(u, u, []) == (1.0, None)
    assert probes.logit_scale(u, u / 8, [30.0]) == (pytest.approx(1 / 8, rel=1e-3), None)
    scale, cap = probes.logit_scale(u, (3 * torch.tanh(u.double() * 2 / 3)).to(dtype), [30.0, 3.0])
    assert (scale, cap) == (pytest.approx(2, rel=2e-2), 3.0)
