"""Transcoders and crosscoders in their models: every figure against the same formula on dense float64 tensors."""

import numpy as np
import pytest
import torch
from two_hooks_model import IN, OUT, TwoHooksModel

import monosem as ms
from monosem.analysis.crosscoder_metrics import evaluate_subject
from monosem.analysis.inputs import Subject, load_subject, of_source, paired
from monosem.analysis.logits import logit_weights
from monosem.analysis.metrics import evaluate
from monosem.analysis.steering import Edit, Steering, log_likelihood_change, side_by_side
from monosem.data import fingerprint
from monosem.data.sites import Sites


def tokens_of(rows):
    return torch.from_numpy(rows.tokens.astype(np.int64))


def losses_of(model, tokens, x, y):
    """Mean cross-entropy of the tokens that are predicted, in float64, with these activations."""
    logp = ((x.double() + y.double() @ model.P.double()) @ model.U.double())[:, :-1].log_softmax(-1)
    return float(-logp.gather(-1, tokens[:, 1:, None]).mean())


def explained(y, y_hat):
    y, y_hat = (t.flatten(0, 1).double() for t in (y, y_hat))
    return float(1 - (y - y_hat).square().sum() / (y - y.mean(0)).square().sum())


def check(got, model, tokens, put, target, reconstruction):
    """``put(value)``: (x, y) of the whole model with ``value`` at the target on all tokens but the first."""
    assert got.explained_variance == pytest.approx(explained(target[:, 1:], reconstruction[:, 1:]), rel=1e-6)
    losses = []
    for value in (target, reconstruction, torch.zeros_like(target)):
        value = value.clone()
        value[:, 0] = target[:, 0]
        losses.append(losses_of(model, tokens, *put(value)))
    clean, sae, zero = losses
    assert (got.ce_clean, got.ce_sae, got.ce_zero) == pytest.approx((clean, sae, zero))
    # A difference of fp32 losses: 1e-7 of each, over zero − clean, which is about as large as they are.
    assert got.ce_loss_recovered == pytest.approx((zero - sae) / (zero - clean), abs=1e-6)


@pytest.fixture
def transcoder():
    sae = ms.Transcoder(6, 5, 20, k=3, skip=True, seed=1)
    with torch.no_grad():
        sae.W_skip.normal_(generator=torch.Generator().manual_seed(2)).mul_(0.2)
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.1)
    return sae


def test_a_transcoders_output_takes_the_place_of_its_target(transcoder, rows):
    model, tokens = TwoHooksModel(d_out=5), tokens_of(rows)
    subject = paired(transcoder, model, IN, OUT)
    got = evaluate_subject(subject, rows, progress=False, contexts=3)
    x = model.E[tokens]
    y = torch.tanh(x @ model.M)
    # The dense definition, in float64: y_hat = W_dec·f + b_dec + W_skip·x, and x itself is untouched.
    f = transcoder.encode(x).to_dense().double()
    y_hat = f @ transcoder.W_dec.double() + transcoder.b_dec.double() + x.double() @ transcoder.W_skip.double().T
    y_hat = y_hat.detach().float()
    check(got, model, tokens, lambda value: (x, value), y, y_hat)
    assert got.l0 == pytest.approx(float((f[:, 1:] > 0).sum() / f[:, 1:].shape[:2].numel()))
    assert got.mse == pytest.approx(float((y - y_hat)[:, 1:].double().square().mean()))
    assert (got.hook_name, got.model, got.d_in, got.config["d_out"]) == (f"{IN} → {OUT}", "two", 6, 5)
    assert not got.places and f"{IN} → {OUT}" in got.table()


@pytest.mark.parametrize("activation", ["relu", "batch_topk"])
def test_a_crosscoder_is_evaluated_at_each_source_in_its_own_model(activation, rows):
    models, tokens = [TwoHooksModel(), TwoHooksModel(seed=4, name="other")], tokens_of(rows)
    sae = ms.Crosscoder(12, 24, 2, activation=activation, k=3, seed=0).eval()
    with torch.no_grad():
        sae.W_dec[:4, :6] = 0  # features of the second model alone
        sae.W_dec[4:6, 6:] = 0
        sae.W_dec.mul_(3 if activation == "relu" else 1)
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.1)
    subject = of_source(sae, Sites(models, OUT), 1)
    got = evaluate_subject(subject, rows, progress=False, contexts=3)
    xs = [model.E[tokens] for model in models]
    ys = [torch.tanh(x @ model.M) for x, model in zip(xs, models, strict=True)]
    f = sae.encode(torch.cat(ys, -1)).to_dense().double()
    both = (f @ sae.W_dec.double() + sae.b_dec.double()).detach().float().split(6, -1)
    active = (f[:, 1:] > 0).flatten(0, 1).any(0)
    for i, (place, model) in enumerate(zip(got.places, models, strict=True)):
        check(place, model, tokens, lambda value, i=i: (xs[i], value), ys[i], both[i])
        own = active & (sae.owners() == i)
        assert (place.model, place.hook_name, place.exclusive) == (model.name, OUT, int(own.sum()))
    shared = {name: getattr(got.places[1], name) for name in ("explained_variance", "ce_sae", "ce_loss_recovered")}
    assert {name: getattr(got, name) for name in shared} == shared
    assert got.places[0].exclusive and got.places[1].exclusive
    text = got.table()
    assert f"{got.places[0].ce_loss_recovered:.2%}" in text and "shared features" in text
    assert got.to_dict()["places"][1]["model"] == "other"


def test_a_crosscoder_of_layers_replaces_one_of_them(rows):
    model, tokens = TwoHooksModel(), tokens_of(rows)
    sae = ms.Crosscoder(12, 24, 2, activation="topk", k=3, seed=0)
    x = model.E[tokens]
    y = torch.tanh(x @ model.M)
    got = evaluate_subject(of_source(sae, Sites(model, [IN, OUT]), 0), rows, progress=False)
    f = sae.encode(torch.cat([x, y], -1)).to_dense().double()
    x_hat, y_hat = (f @ sae.W_dec.double() + sae.b_dec.double()).detach().float().split(6, -1)
    check(got.places[0], model, tokens, lambda value: (value, torch.tanh(value @ model.M)), x, x_hat)
    check(got.places[1], model, tokens, lambda value: (x, value), y, y_hat)


def test_logit_directions_are_those_of_the_output(transcoder):
    model = TwoHooksModel(d_out=5)
    subject = paired(transcoder, model, IN, OUT)
    used = torch.ones(model.d_vocab, dtype=torch.bool)
    got = logit_weights(subject.sae, subject.model, subject.hook_name, used, count=3)
    weights = transcoder.W_dec.detach() @ model.P @ model.U
    weights -= weights.median(1, keepdim=True).values
    torch.testing.assert_close(got.top_values, weights.topk(3).values)


def test_without_its_hooks_a_transcoder_is_not_evaluated(transcoder, rows):
    with pytest.raises(ValueError, match="sae: got transcoder, which reconstructs another activation"):
        evaluate(transcoder, TwoHooksModel(d_out=5), IN, rows, progress=False)
    with pytest.raises(ValueError, match=r"hook_out: 'blocks.0.hook_mlp_out' of model 'two' is 6 wide"):
        paired(transcoder, TwoHooksModel(), IN, OUT)


def test_a_folder_says_where_its_dictionary_is_read(transcoder, tmp_path, monkeypatch):
    models = {"two": TwoHooksModel(), "narrow": TwoHooksModel(d_out=5), "other": TwoHooksModel(4, "other")}
    monkeypatch.setattr("monosem.data.models.load_model", lambda name, device="cpu", **_: models[name])
    ms.save(transcoder, tmp_path / "t", {"model": "narrow", "hook_name": [IN, OUT]})
    subject = load_subject(tmp_path / "t")
    assert subject.hook_name == f"{IN} → {OUT}" and subject.model.width(subject.hook_name) == 6
    assert fingerprint.of_model(subject.model) == fingerprint.of_model(models["narrow"])
    ms.save(transcoder, tmp_path / "without", {"model": "narrow", "hook_name": IN})
    with pytest.raises(ValueError, match=r"hook_out: .* does not say which it was trained on; name it"):
        load_subject(tmp_path / "without")
    assert load_subject(tmp_path / "without", hook_out=OUT).hook_name == subject.hook_name
    with pytest.raises(ValueError, match=r"source: got 0; .* holds a transcoder of one activation"):
        load_subject(tmp_path / "t", source=0)

    sae = ms.Crosscoder(12, 24, 2, seed=0)
    ms.save(sae, tmp_path / "c", {"model": ["two", "other"], "hook_name": [OUT, OUT]})
    assert load_subject(tmp_path / "c", source=1).hook_name == f"{OUT}, source 1 (other)"
    with pytest.raises(ValueError, match="source: got 2; wanted 0 to 1"):
        load_subject(tmp_path / "c", source=2)
    with pytest.raises(ValueError, match="wanted neither, for a crosscoder is read at the hooks of its run"):
        load_subject(tmp_path / "c", "two")
    with pytest.raises(ValueError, match=r"hook_out: got .* reconstructs what it reads"):
        load_subject(tmp_path / "c", hook_out=OUT)
    ms.save(ms.Crosscoder(12, 24, 3, seed=0), tmp_path / "c3", {"model": ["two", "other"], "hook_name": [OUT, OUT]})
    with pytest.raises(ValueError, match=r"got 2 in .*wanted n_sources=3"):
        load_subject(tmp_path / "c3")
    halves = ms.Crosscoder(6, 24, 2, seed=0)  # of one activation: sources are parts of it
    ms.save(halves, tmp_path / "halves", {"model": "two", "hook_name": OUT})
    assert load_subject(tmp_path / "halves").hook_name == OUT


def test_an_evaluation_of_one_activation_has_no_places(rows):
    model = TwoHooksModel()
    alone = ms.TopKSAE(6, 12, k=2, seed=0)
    subject = Subject(alone, model, OUT)
    got = evaluate_subject(subject, rows, progress=False)
    assert got == evaluate(alone, model, OUT, rows, progress=False) and not got.places


@pytest.mark.parametrize("error", ["keep", "drop"])
def test_steering_a_transcoder_moves_its_target_along_the_decoder(transcoder, rows, error):
    model, tokens = TwoHooksModel(d_out=5), tokens_of(rows)
    subject = paired(transcoder, model, IN, OUT)
    edits = [Edit(4, "pin", 2.0), Edit(7, "add", -1.5), Edit(9, "ablate")]
    steering = Steering(subject.sae, edits, error=error)
    got = log_likelihood_change(subject.model, subject.hook_name, tokens, steering)
    x = model.E[tokens]
    y = torch.tanh(x @ model.M)
    f = transcoder.encode(x).to_dense().double()
    assert f[:, 1:, [4, 9]].any()
    moved = torch.stack([2.0 - f[..., 4], torch.full_like(f[..., 7], -1.5), -f[..., 9]], -1)
    changed = y.double() if error == "keep" else transcoder(x).double()
    changed = changed + moved @ transcoder.W_dec[[4, 7, 9]].double()
    changed[:, 0] = y[:, 0].double()

    def losses(y):
        logp = ((x.double() + y @ model.P.double()) @ model.U.double())[:, :-1].log_softmax(-1)
        return -logp.gather(-1, tokens[:, 1:, None])[..., 0]

    torch.testing.assert_close(got.double(), losses(y.double()) - losses(changed), atol=2e-5, rtol=1e-5)


def test_steering_without_edits_changes_nothing(transcoder, rows):
    model = TwoHooksModel(d_out=5)
    subject = paired(transcoder, model, IN, OUT)
    steering = Steering(subject.sae)
    assert log_likelihood_change(subject.model, subject.hook_name, tokens_of(rows), steering).abs().max() == 0
    written = side_by_side(subject.model, subject.hook_name, steering, [1, 2], samples=2, length=4)
    assert all(s.steered == s.unsteered for s in written)
    with pytest.raises(ValueError, match="sae: got transcoder, which reconstructs another activation"):
        steering(torch.zeros(1, 3, 6))
    backwards = paired(ms.Transcoder(5, 6, 8, k=2, seed=0), model, OUT, IN)
    with pytest.raises(ValueError, match=r"hook_out: 'blocks.0.hook_resid_pre' is reached before"):
        log_likelihood_change(backwards.model, backwards.hook_name, tokens_of(rows), Steering(backwards.sae))
    crosscoder = of_source(ms.Crosscoder(12, 24, 2, seed=0), Sites(TwoHooksModel(), [IN, OUT]), 0)
    with pytest.raises(ValueError, match="sae: got crosscoder, whose features are read from several activations"):
        Steering(crosscoder.sae)
