"""A dictionary with free norms is shown as the same dictionary with unit rows is."""

import numpy as np
import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis import scan
from monosem.analysis.index.build import build_index, open_index
from monosem.analysis.index.fingerprint import of_dictionary
from monosem.analysis.inputs import Subject
from monosem.analysis.logits import logit_weights, used_vocabulary
from monosem.analysis.neuron_basis import NeuronBasis
from monosem.analysis.steering import Edit, Steering
from monosem.analysis.unit_rows import NegativeSide, UnitRows, in_unit_rows
from monosem.data.token_rows import pack_rows

D, F = 32, 24
FREE = {
    "relu": lambda: ms.ReLUSAE(D, F, decoder_norm="free", seed=0),
    "jumprelu": lambda: ms.JumpReLUSAE(D, F, form="tanh", decoder_norm="free", initial_threshold=0.02, seed=0),
}


def made(kind, factors):
    """A dictionary whose decoder rows have these factors, and its encoder rows the inverse ones."""
    sae = FREE[kind]()
    with torch.no_grad():
        sae.b_enc.add_(0.01 * torch.randn(F, generator=torch.Generator().manual_seed(1)))
        sae.W_dec.mul_(factors[:, None])
        for p in (sae.W_enc_rows, sae.b_enc, *([sae.threshold] if kind == "jumprelu" else [])):
            p.div_(factors if p.ndim == 1 else factors[:, None])
    return sae


def powers_of_two(seed=0):
    """Factors that round nothing."""
    return 2.0 ** torch.randint(-4, 5, (F,), generator=torch.Generator().manual_seed(seed)).float()


@pytest.fixture(scope="module")
def text():
    model = tiny_model()
    return model, pack_rows(tiny_documents(12), model)


@pytest.mark.parametrize("kind", FREE)
def test_values_are_lengths_and_rows_directions(kind):
    sae, x = made(kind, powers_of_two()), torch.randn(50, D, generator=torch.Generator().manual_seed(2))
    shown = in_unit_rows(sae)
    code, norms = sae.encode(x), sae.W_dec.norm(dim=1).detach()
    assert isinstance(shown, UnitRows) and in_unit_rows(shown) is shown
    torch.testing.assert_close(shown.W_dec.norm(dim=1), torch.ones(F))
    torch.testing.assert_close(shown.encode(x).to_dense(), code.to_dense() * norms)
    torch.testing.assert_close(shown.decode(shown.encode(x)), sae.decode(code).detach())
    torch.testing.assert_close(x @ shown.W_enc_rows.T + shown.b_enc, (x @ sae.W_enc + sae.b_enc).detach() * norms)
    assert of_dictionary(shown) == of_dictionary(sae)


def test_unit_rows_are_left_as_they_are():
    for sae in (ms.TopKSAE(D, F, 4), ms.ReLUSAE(D, F), ms.JumpReLUSAE(D, F), NeuronBasis(D)):
        assert in_unit_rows(sae) is sae


def test_a_row_of_zeros_is_never_active():
    sae = made("relu", torch.ones(F))
    with torch.no_grad():
        sae.W_dec[3] = 0
        sae.b_enc[3] = 5
    shown = in_unit_rows(sae)
    assert shown.encode(torch.randn(9, D)).active_counts()[3] == 0 and not shown.W_dec[3].any()


@pytest.mark.parametrize("kind", FREE)
def test_what_is_shown_does_not_depend_on_the_norms(kind, text):
    model, rows = text
    ones, scaled = made(kind, torch.ones(F)), made(kind, powers_of_two())
    first, second = (build_index(Subject(sae, model, HOOK), rows, progress=False) for sae in (ones, scaled))
    assert torch.equal(first.counts, second.counts) and first.counts.any()
    torch.testing.assert_close(first.maximum, second.maximum)
    used = used_vocabulary(np.asarray(rows.tokens), model.d_vocab, 1)
    weights = [logit_weights(sae, model, HOOK, used, 5) for sae in (ones, scaled)]
    torch.testing.assert_close(weights[0].top_values, weights[1].top_values)
    feature, tokens = int(first.counts.argmax()), torch.as_tensor(rows.tokens[:2]).long()
    x = model.activations(tokens, HOOK)
    steered = [Steering(sae, [Edit(feature, "pin", 2 * float(first.maximum[feature]))])(x) for sae in (ones, scaled)]
    torch.testing.assert_close(*steered)
    moved = (steered[0] - Steering(ones, [Edit(feature, "ablate")])(x))[:, 1:].norm(dim=-1)
    torch.testing.assert_close(moved, torch.full_like(moved, 2 * float(first.maximum[feature])), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("shown", [lambda sae: sae, in_unit_rows], ids=["trained", "unit rows"])
def test_steering_prepares_the_encoder_whatever_the_units(monkeypatch, kind, shown):
    sae, calls = FREE[kind](), []
    monkeypatch.setattr(sae, "prepare", lambda: calls.append(1) or sae)
    Steering(shown(sae), [Edit(0, "pin", 1.0)])
    assert calls == [1]


def signed():
    sae = ms.AbsTopKSAE(D, F, 6, seed=0)
    with torch.no_grad():
        sae.b_enc.add_(0.3 * torch.randn(F, generator=torch.Generator().manual_seed(1)))
    return sae


def test_the_negative_side_turns_every_sign_and_reconstructs_the_same():
    sae, x = signed(), torch.randn(50, D, generator=torch.Generator().manual_seed(2))
    turned = NegativeSide(sae)
    assert torch.equal(turned.encode(x).to_dense(), -sae.encode(x).to_dense())
    assert torch.equal(turned.W_dec, -sae.W_dec) and torch.equal(turned.W_enc_rows, -sae.W_enc_rows)
    torch.testing.assert_close(turned.decode(turned.encode(x)), sae(x).detach())
    assert torch.equal(turned(x), sae(x)) and in_unit_rows(turned) is turned
    assert turned.cfg.kind == "abs_topk, negative side" and sae.cfg.kind == type(sae.cfg).kind == "abs_topk"
    assert of_dictionary(turned) != of_dictionary(sae)


def test_an_index_of_the_negative_side_holds_the_entries_below_0(text, tmp_path):
    model, rows = text
    sae = signed()
    sides = [Subject(s, model, HOOK) for s in (sae, NegativeSide(sae))]
    positive, negative = (build_index(s, rows, tmp_path / str(i), progress=False) for i, s in enumerate(sides))
    blocks = list(scan.blocks(sae, model, HOOK, rows))
    below = sum(torch.bincount(b.negative[0], minlength=F) for b in blocks)
    above = sum(torch.bincount(b.features, minlength=F) for b in blocks)
    assert torch.equal(negative.counts.long(), below) and torch.equal(positive.counts.long(), above) and below.sum()
    x = torch.cat([b.x for b in blocks])
    torch.testing.assert_close(negative.maximum, (-sae.encode(x).to_dense()).amax(0).clamp(min=0), check_dtype=False)
    with pytest.raises(ValueError, match="is an index of another dictionary"):
        open_index(tmp_path / "0", sides[1])


def test_steering_by_the_negative_side_adds_the_opposite_direction(text):
    model, rows = text
    sae = signed()
    x = model.activations(torch.as_tensor(rows.tokens[:2]).long(), HOOK)
    moved = Steering(NegativeSide(sae), [Edit(3, "add", 2.0)])(x) - x
    torch.testing.assert_close(moved, x - Steering(sae, [Edit(3, "add", 2.0)])(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        Steering(NegativeSide(sae), [Edit(3, "pin", 2.0)])(x), Steering(sae, [Edit(3, "pin", -2.0)])(x)
    )


@pytest.mark.parametrize(
    "sae", [ms.TopKSAE(D, F, 4), FREE["jumprelu"](), in_unit_rows(FREE["relu"]()), NeuronBasis(D)], ids=range(4)
)
def test_what_is_never_below_0_has_no_negative_side(sae):
    with pytest.raises(ValueError, match=r"^sae: got .*, whose features are never below 0; wanted one with entries"):
        NegativeSide(sae)
