"""Steering on models whose every next token is known."""

import pytest
import torch
from chain_model import HOOK, LETTERS, ChainModel, letters_sae
from tiny import tiny_model

import monosem as ms
from monosem.analysis.neuron_basis import NeuronBasis
from monosem.analysis.steering import Edit, Steering, log_likelihood_change, parse_edit, side_by_side

C, D, F, G = (LETTERS.index(c) for c in "cdfg")


def dense(sae, x, edits, error):
    """The definition, on dense codes in float64."""
    f = sae.encode(x).to_dense().double()
    after = f.clone()
    for e in edits:
        after[..., e.feature] = {"pin": e.value, "add": f[..., e.feature] + e.value, "ablate": 0.0}[e.kind]
    decode = lambda g: g @ sae.W_dec.double() + sae.b_dec.double()
    out = decode(after) + (x.double() - decode(f) if error == "keep" else 0)
    return torch.cat([x[:, :1].double(), out[:, 1:]], 1)


@pytest.mark.parametrize("error", ["keep", "drop"])
@pytest.mark.parametrize(
    "sae", [ms.TopKSAE(7, 19, k=4, seed=1), ms.ReLUSAE(7, 19, seed=1), NeuronBasis(7)], ids=["topk", "relu", "neurons"]
)
def test_edits_agree_with_their_definition(sae, error):
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)) * 2
    for edits in ([], [Edit(3, "pin", 2.5)], [Edit(0, "ablate"), Edit(6, "add", -1.5), Edit(2, "pin", 0.5)]):
        with torch.no_grad():
            wanted = dense(sae, x, edits, error)
        got = Steering(sae, edits, error=error)(x)
        torch.testing.assert_close(got.double(), wanted, atol=2e-5, rtol=1e-5)
        assert got.dtype == x.dtype


def test_without_edits_and_with_the_error_kept_nothing_changes():
    x = torch.randn(2, 4, 7)
    assert torch.equal(Steering(ms.TopKSAE(7, 19, k=4, seed=1))(x), x)


def test_skip_positions_decides_whether_bos_is_edited():
    x = torch.zeros(1, 3, len(LETTERS))
    steered = lambda skip: Steering(letters_sae(), [Edit(C, "pin", 4.0)], skip_positions=skip)(x)[0, :, C].tolist()
    assert (steered(1), steered(0), steered(9)) == ([0, 4, 4], [4, 4, 4], [0, 0, 0])


def test_from_a_position_on_the_later_tokens_are_steered_alike():
    x = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    whole = Steering(ms.TopKSAE(7, 19, k=4, seed=1), [Edit(3, "pin", 2.5)], skip_positions=2)
    for start in range(4):
        torch.testing.assert_close(whole.from_position(start)(x[:, start:]), whole(x)[:, start:])
    assert whole.skip_positions == 2


def test_a_pinned_feature_writes_its_token():
    """Pinned well above 1, feature c makes d follow every token; ablated in a context of c, anything may follow."""
    model = ChainModel()
    prompt = model.encode("ab")
    plain = model.generate(prompt, 6, temperature=0)
    assert model.decode(plain[3:]) == "cdefgh"
    pinned = Steering(letters_sae(), [Edit(C, "pin", 3.0)])
    assert model.decode(model.generate(prompt, 6, 0, replace={HOOK: pinned})[3:]) == "dddddd"
    # Several at once: g is worth more than c wherever both are pinned.
    both = Steering(letters_sae(), [Edit(C, "pin", 3.0), Edit(G, "pin", 4.0)])
    assert model.decode(model.generate(prompt, 6, 0, replace={HOOK: both})[3:]) == "hhhhhh"
    # One taken away: behind an f the model knows nothing, and the likeliest of equals is the first token.
    without = Steering(letters_sae(), [Edit(F, "ablate")])
    assert model.decode(model.generate(model.encode("e"), 2, 0, replace={HOOK: without})[2:]) == "f_"


def test_a_dictionary_that_explains_half_with_the_error_kept_or_dropped():
    """With f = x/2 and nothing edited, dropping the error halves the logits."""
    model, sae = ChainModel(), letters_sae(0.5)
    tokens = torch.tensor([[0, 1, 2, 3]])
    assert log_likelihood_change(model, HOOK, tokens, Steering(sae)).abs().max() == 0
    change = log_likelihood_change(model, HOOK, tokens, Steering(sae, error="drop"))[0]
    v = len(LETTERS)
    log_p = lambda logit: logit - torch.logsumexp(torch.tensor([float(logit)] + [0.0] * (v - 1)), 0)
    assert change[0] == 0  # predicted from the BOS
    torch.testing.assert_close(change[1:], (log_p(6) - log_p(12)).expand(2), atol=1e-5, rtol=1e-4)


def test_ablation_changes_only_tokens_after_an_active_feature():
    model = ChainModel()
    tokens = model.encode("abcdefg")
    change = log_likelihood_change(
        model, HOOK, torch.tensor([[0, *tokens]]), Steering(letters_sae(), [Edit(C, "ablate")])
    )
    assert change[0, 3] < -2 and change[0, [0, 1, 2, 4, 5, 6]].abs().max() == 0  # d, which c predicts


def test_side_by_side_keeps_the_seeds():
    model = ChainModel(sharpness=1.0)
    steering = Steering(letters_sae(), [Edit(C, "pin", 2.0)])
    one = side_by_side(model, HOOK, steering, "ab", samples=3, length=5, seed=4)
    assert [s.seed for s in one] == [4, 5, 6] and all(len(s.steered) == len(s.unsteered) == 5 for s in one)
    assert one == side_by_side(model, HOOK, steering, [0, 1, 2], samples=3, length=5, seed=4)
    nothing = side_by_side(model, HOOK, Steering(letters_sae()), "ab", samples=2, length=5, seed=4)
    assert all(s.steered == s.unsteered for s in nothing)
    reused = side_by_side(model, HOOK, steering, "ab", samples=3, length=5, seed=4, unsteered=[[1], [2], [3]])
    assert [s.unsteered for s in reused] == [[1], [2], [3]] and [s.steered for s in reused] == [s.steered for s in one]


def test_an_edit_reaches_later_tokens_through_attention():
    """In a model of two layers a change in the first reaches later tokens through attention."""
    model = tiny_model(n_layers=2)
    sae = ms.TopKSAE(32, 40, k=4, seed=0)
    tokens = torch.randint(1, 300, (1, 12), generator=torch.Generator().manual_seed(0))
    fired = Steering(sae, [Edit(5, "pin", 8.0)])
    change = log_likelihood_change(model, HOOK, tokens, fired)
    assert change[0, 0] == 0 and (change[0, 1:].abs() > 0).all()


@pytest.mark.parametrize(
    ("spec", "kind", "wanted"),
    [
        ("12", "pin", Edit(12, "pin", 5.0)),
        ("12=2x", "pin", Edit(12, "pin", 10.0)),
        (" 12 = 0.5x ", "pin", Edit(12, "pin", 2.5)),
        ("12=-1x", "add", Edit(12, "add", -5.0)),
        ("12=7.5", "add", Edit(12, "add", 7.5)),
        ("BASE64=2", "pin", Edit(3, "pin", 2.0)),
        ("base64", "ablate", Edit(3, "ablate")),
    ],
)
def test_edit_specifications_are_parsed(spec, kind, wanted):
    assert parse_edit(spec, kind, lambda f: 5.0, {"base64": 3}) == wanted


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="got 'dna'; wanted the number of a feature, or a name: base64"):
        parse_edit("dna", "pin", lambda f: 1.0, {"base64": 3})
    with pytest.raises(ValueError, match="pin: got '3=twice'; wanted FEATURE=STRENGTH"):
        parse_edit("3=twice", "pin", lambda f: 1.0)
    with pytest.raises(ValueError, match="feature 3 never fired"):
        parse_edit("3=2x", "pin", lambda f: 0.0)
    with pytest.raises(ValueError, match="wanted a feature alone"):
        parse_edit("3=2x", "ablate", lambda f: 1.0)
    with pytest.raises(ValueError, match="feature: got 17; wanted 0 to 16"):
        Steering(letters_sae(), [Edit(17, "ablate")])
    with pytest.raises(ValueError, match="feature 2 is edited twice"):
        Steering(letters_sae(), [Edit(2, "ablate"), Edit(2, "pin", 1.0)])
    with pytest.raises(ValueError, match="error: got 'lose'"):
        Steering(letters_sae(), error="lose")
    with pytest.raises(ValueError, match=r"x: got shape \[2, 3, 5\]; wanted \[..., T, d_in=17\]"):
        Steering(letters_sae(), [Edit(2, "ablate")])(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="kind: got 'push'"):
        Edit(1, "push")
    with pytest.raises(ValueError, match="samples, length: got 0, 5"):
        side_by_side(ChainModel(), HOOK, Steering(letters_sae()), "a", samples=0, length=5)
