"""Encoder biases by which few features are active from the first step on."""

import json

import pytest
import torch

import monosem as ms
from monosem.nn import registry, starting_l0

D, F, N, L0 = 24, 2048, 768, 20.0

KINDS = {
    "relu": lambda **more: ms.ReLUSAE(D, F, seed=0, **more),
    "free": lambda **more: ms.ReLUSAE(D, F, decoder_norm="free", seed=0, **more),
    "uncentred": lambda **more: ms.ReLUSAE(D, F, apply_b_dec_to_input=False, seed=0, **more),
    "gated": lambda **more: ms.GatedSAE(D, F, seed=0, **more),
    "matryoshka": lambda **more: ms.MatryoshkaSAE(D, F, activation="relu", prefixes=(12, F), seed=0, **more),
    "crosscoder": lambda **more: ms.Crosscoder(D, F, 2, activation="relu", seed=0, **more),
    "transcoder": lambda **more: ms.Transcoder(D, 8, F, activation="gated", seed=0, **more),
}


def batch(n=N, width=D, scale=1.0, dtype=torch.float32):
    """Activations like those behind a ReLU: at least 0, of uneven scale, with a mean."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, width, generator=generator).relu() * torch.rand(width, generator=generator)
    return (scale * (x + 0.3)).to(dtype)


def active(sae, x):
    code = sae.encode(sae.source(x))
    return float(code.l0()), int(code.fired().sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 250.0])
def test_so_many_features_are_active_at_the_start(kind, scale):
    sae = KINDS[kind](initial_l0=L0)
    x = batch(width=sum(sae.batch_widths), scale=scale)
    sae.initialize(x)
    l0, fired = active(sae, x)
    assert 0.97 * L0 <= l0 <= L0 * 1.001  # one part of 1/128 σ is 2 % of the normal tail there
    assert fired > 0.9 * F  # not the same few for every token
    assert KINDS[kind]().initialize(x).b_enc.eq(0).all() and active(KINDS[kind]().initialize(x), x)[0] > F / 4


def test_a_callers_autocast_does_not_reach_the_biases():
    sae, plain = (ms.ReLUSAE(D, F, initial_l0=L0, seed=0) for _ in range(2))
    plain.initialize(batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sae.initialize(batch())
    assert torch.equal(sae.b_enc, plain.b_enc)


def test_biases_are_those_of_the_definition():
    """In float64: every pre-activation standardised by its feature, and the rank of z among all."""
    sae = ms.ReLUSAE(D, F, initial_l0=L0, seed=0, dtype=torch.float64)
    x = batch(dtype=torch.float64)
    sae.initialize(x)
    h = (x - sae.b_dec) @ sae.W_enc
    mean, deviation = h.mean(0), h.std(0, correction=0)
    ranked = ((h - mean) / deviation).flatten().sort(descending=True).values
    z = ranked[round(L0 * N)]
    found = (-sae.b_enc - mean) / deviation
    assert found.max() - found.min() < 1e-4  # one z for all: sums of N float32 numbers
    assert -1e-4 <= found.mean() - z <= 1 / 128 + 1e-4


def test_a_sample_of_tokens_and_features_is_read_where_there_are_many(monkeypatch):
    monkeypatch.setattr(starting_l0, "TOKENS", 100)
    monkeypatch.setattr(starting_l0, "COMPARED", 300)
    monkeypatch.setattr(starting_l0, "PER_STEP", 100 * 77)  # features are read 77 at a time, and each seventh compared
    x = batch(4096)
    sae = ms.ReLUSAE(D, F, initial_l0=L0, seed=0).initialize(x)
    assert active(sae, x)[0] == pytest.approx(L0, rel=0.2)  # 100 tokens decide


def test_biases_that_are_there_stay():
    x, sae = batch(), ms.ReLUSAE(D, F, initial_l0=L0, seed=0)
    sae.initialize(x)
    before = sae.b_enc.detach().clone()
    sae.measure(3 * x)
    assert torch.equal(sae.b_enc, before)


def test_a_feature_without_weights_never_fires_and_harms_no_other():
    sae, x = ms.ReLUSAE(D, F, initial_l0=L0, seed=0), batch()
    with torch.no_grad():
        sae.W_enc_rows[::2] = 0.0
    sae.initialize(x)
    assert active(sae, x)[0] == pytest.approx(L0, rel=0.03) and sae.b_enc.isfinite().all()
    assert not sae.encode(x).fired()[::2].any()


def test_a_resampled_feature_is_active_for_what_its_input_is_like():
    sae, x = ms.ReLUSAE(D, F, initial_l0=L0, seed=0), batch()
    sae.initialize(x)
    features, inputs = torch.arange(0, 600, 3), x[:200]
    alive = torch.ones(F, dtype=torch.bool)
    alive[features] = False
    sae.restart_features(features, inputs, alive, 0.2)
    h = (inputs - sae.b_dec) @ sae.W_enc_rows[features].T  # [inputs, features]
    own = h.diagonal()
    assert (own > 0).float().mean() > 0.9  # of the others the input lies behind b_dec: they keep the paper's bias of 0
    active = (h + sae.b_enc[features]) > 0
    assert torch.equal(active, h > starting_l0.OWN * own.clamp(min=0)) and torch.equal(active.diagonal(), own > 0)
    assert active.float().mean() < (h > 0).float().mean() / 2


def test_a_resampled_feature_has_no_bias_where_none_was_asked_for():
    sae, x = ms.ReLUSAE(D, F, seed=0), batch()
    with torch.no_grad():
        sae.b_enc.fill_(-1.0)
    sae.restart_features(torch.arange(5), x[:5], torch.arange(F) >= 5, 0.2)
    assert not sae.b_enc[:5].any() and torch.all(sae.b_enc[5:] == -1.0)


def test_a_run_begins_with_it_and_a_run_from_another_keeps_that_ones(tmp_path):
    config = ms.TrainConfig(lr=1e-4, batch_size=N, steps=2, log_every=1, lr_warmup=0, sparsity_warmup=0)
    x = batch(2 * N)
    first = ms.Trainer(ms.ReLUSAE(D, F, initial_l0=L0, seed=0), config, tmp_path / "first", progress=False)
    first.fit(x.split(N))
    rows = [json.loads(line) for line in (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "l0" in row]
    assert len(rows) == 2 and all(0.5 * L0 < row["l0"] < 1.5 * L0 and row["dense"] == 0 for row in rows)
    assert ms.load(tmp_path / "first").cfg.initial_l0 == L0
    second = ms.Trainer(ms.ReLUSAE(D, F, initial_l0=4 * L0, seed=0), config, progress=False, start=tmp_path / "first")
    second.fit(x.split(N))
    kept = second.learners[0].sae.b_enc - first.learners[0].sae.b_enc
    assert float(kept.detach().abs().max()) < 1e-3  # two steps of 1e-4, and not biases anew


@pytest.mark.parametrize("kind", ["relu", "gated", "matryoshka"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "initial_l0: got 0; wanted a number above 0"),
        (-3.0, "initial_l0: got -3.0; wanted a number above 0"),
        ("few", "initial_l0: got 'few'; wanted a number above 0"),
        (33, r"initial_l0: got 33; wanted at most d_sae / 2 = 32, or None for biases of 0"),
    ],
)
def test_numbers_that_are_none_are_refused(kind, value, message):
    with pytest.raises(ValueError, match=message):
        registry.find(kind).Config(D, 64, initial_l0=value)


def test_a_batch_that_tells_nothing_is_refused():
    for bad in (batch(1), batch(1).expand(5, D), torch.full((N, D), torch.nan), batch(0)):
        with pytest.raises(ValueError, match=r"sample: got \d+ tokens, by which initial_l0=20 cannot be set; wanted"):
            ms.ReLUSAE(D, F, initial_l0=L0, seed=0).measure(bad)


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_other_activations_leave_biases_alone(activation):
    sae = ms.MatryoshkaSAE(D, F, k=4, activation=activation, prefixes=(8, F), initial_l0=L0, seed=0)
    sae.initialize(batch())
    assert not sae.b_enc.any()


def test_it_is_told_where_it_is_set():
    assert "initial_l0 = 20" in ms.ReLUSAE(D, F, initial_l0=L0).cfg.describe()
    assert "initial_l0" not in ms.ReLUSAE(D, F).cfg.describe()
    assert "initial_l0" not in ms.MatryoshkaSAE(D, F, k=4, prefixes=(8, F)).cfg.describe()
