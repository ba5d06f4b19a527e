"""A model seen through activations that are normalised token by token."""

import inspect

import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.inputs import subject_of
from monosem.data.adapter import Model
from monosem.data.normalised import LAYER_NORM, UNIT_NORM, NormalisedTokens, normalise


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tokens():
    return torch.arange(2 * 20).view(2, 20) * 7 % 300


@pytest.mark.parametrize("kind", [LAYER_NORM, UNIT_NORM])
def test_activations_are_normalised_at_the_hook_alone(model, tokens, kind):
    seen, other = NormalisedTokens(model, HOOK, kind), "blocks.0.hook_resid_pre"
    x, y = model.activations(tokens, HOOK), model.activations(tokens, other)
    n, untouched = seen.activations_at(tokens, [HOOK, other])
    assert torch.equal(untouched, y) and torch.equal(n, seen.activations(tokens, HOOK))
    if kind == LAYER_NORM:
        torch.testing.assert_close(n, (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5))
    else:
        torch.testing.assert_close(n.norm(dim=-1), torch.full((2, 20), 32**0.5))
    again, scale, shift = normalise(x, kind)
    torch.testing.assert_close(again * scale + shift, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [LAYER_NORM, UNIT_NORM])
def test_a_reconstruction_is_put_back_where_its_token_was(model, tokens, kind):
    torch.manual_seed(1)
    change, seen = torch.nn.Linear(32, 32).requires_grad_(False), NormalisedTokens(model, HOOK, kind)

    def whole(x):  # as the library that trained the dictionary computes it
        if kind == LAYER_NORM:
            mean, deviation = x.mean(-1, keepdim=True), (x - x.mean(-1, keepdim=True)).std(-1, keepdim=True)
            return change((x - mean) / (deviation + 1e-5)) * deviation + mean
        factor = 32**0.5 / x.norm(dim=-1, keepdim=True)
        return change(x * factor) / factor

    got, wanted = seen.token_losses(tokens, {HOOK: change}), model.token_losses(tokens, {HOOK: whole})
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    ours, theirs = (m.compared_losses(tokens, [{HOOK: f}]) for m, f in ((seen, change), (model, whole)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert seen.generate([5], 6, replace={HOOK: change}) == model.generate([5], 6, replace={HOOK: whole})


@pytest.mark.parametrize("kind", [LAYER_NORM, UNIT_NORM])
def test_what_is_left_alone_is_the_same_to_the_last_bit_and_zeros_are_zeros(model, tokens, kind):
    seen = NormalisedTokens(model, HOOK, kind)
    assert torch.equal(seen.token_losses(tokens, {HOOK: lambda x: x.clone()}), model.token_losses(tokens))
    zero = {HOOK: torch.zeros_like}
    assert torch.equal(seen.token_losses(tokens, zero), model.token_losses(tokens, zero))
    assert seen.name == model.name and seen.width(HOOK) == 32 and seen.encode("the fox") == model.encode("the fox")


def test_every_method_of_a_model_that_replaces_activations_undoes_the_normalisation():
    replacing = {
        name
        for name, method in inspect.getmembers(Model, inspect.isfunction)
        if not name.startswith("_") and {"replace", "replacements"} & set(inspect.signature(method).parameters)
    }
    assert replacing == {"token_losses", "compared_losses", "generate"} <= vars(NormalisedTokens).keys()


def test_compared_losses_are_those_of_single_passes(model, tokens):
    seen = NormalisedTokens(model, HOOK, LAYER_NORM)
    twice = {HOOK: lambda x: 2 * x}
    (clean, changed), (divergence,) = seen.compared_losses(tokens, [twice])
    assert torch.equal(clean, model.token_losses(tokens)) and torch.equal(changed, seen.token_losses(tokens, twice))
    assert divergence.shape == clean.shape and float(divergence.max()) > 0


def test_an_activation_of_zeros_stays_finite():
    for kind in (LAYER_NORM, UNIT_NORM):
        assert torch.equal(normalise(torch.zeros(2, 8), kind)[0], torch.zeros(2, 8))
    with pytest.raises(ValueError, match="kind: got 'batch_norm'; wanted 'layer_norm' or"):
        normalise(torch.zeros(2, 8), "batch_norm")


def test_a_dictionary_of_normalised_activations_is_evaluated_as_its_library_does(model):
    sae = ms.ReLUSAE(32, 48, decoder_norm="free", seed=0).eval()
    sae.metadata = {"hook_name": HOOK, "loaded_from": {"inputs_normalised": LAYER_NORM}}
    with torch.no_grad():
        sae.W_dec.mul_(4)
    subject = subject_of(sae, "sae", model)
    rows = ms.pack_rows(tiny_documents(6), model, 16)
    result = ms.evaluate(subject.sae, subject.model, HOOK, rows, progress=False)

    tokens = torch.as_tensor(rows.tokens).long()
    is_bos = tokens == model.bos_id  # it keeps its activation, and its prediction is not scored
    is_bos[:, 0] = True

    def whole(x):
        n, scale, shift = normalise(x, LAYER_NORM)
        return torch.where(is_bos[..., None], x, sae(n) * scale + shift)

    def mean(losses):
        return float(losses[~is_bos[:, 1:]].double().mean())

    assert result.ce_clean == pytest.approx(mean(model.token_losses(tokens)), rel=1e-6)
    assert result.ce_sae == pytest.approx(mean(model.token_losses(tokens, {HOOK: whole})), rel=1e-5)
    assert result.ce_zero == pytest.approx(
        mean(model.token_losses(tokens, {HOOK: lambda x: torch.where(is_bos[..., None], x, 0)})), rel=1e-6
    )
