import collections

import pytest
import torch

import monosem as ms
from monosem.train.learner import Learner
from monosem.train.resample import InputDraw

D, F = 16, 48
PLAN = ms.ResampleConfig(at_steps=(6, 12), window=5, n_inputs=200, encoder_factor=0.2)


def kill(sae, features):
    """Features that can never fire: a bias far below anything."""
    with torch.no_grad():
        sae.b_enc[features] = -1e3


def test_the_papers_numbers_are_the_defaults():
    plan = ms.ResampleConfig()
    assert plan.at_steps == (25_000, 50_000, 75_000, 100_000)
    assert (plan.window, plan.n_inputs, plan.encoder_factor) == (12_500, 819_200, 0.2)


def test_scaled_intervals():
    assert ms.ResampleConfig().scaled(0.01) == ms.ResampleConfig((250, 500, 750, 1000), 125)
    assert ms.ResampleConfig().scaled(1e-9).at_steps == (1, 2, 3, 4)
    assert ms.ResampleConfig.for_run(200_000, 8_192, 4_096) == ms.ResampleConfig()
    short = ms.ResampleConfig.for_run(2_000, 4_096, 4_096)
    assert short == ms.ResampleConfig((250, 500, 750, 1000), 125, 81_920)


@pytest.mark.parametrize(
    "bad", [{"window": 0}, {"n_inputs": 1.5}, {"at_steps": ()}, {"at_steps": (20, 22)}, {"encoder_factor": 0.0}]
)
def test_bad_plan_names_the_field(bad):
    with pytest.raises(ValueError, match=rf"resample\.{next(iter(bad))}: got"):
        ms.ResampleConfig(**{"at_steps": (10, 20), "window": 5} | bad)


def test_token_losses_average_to_the_loss_being_trained(make):
    x = torch.randn(50, D)
    for kind in ("topk", "relu"):
        sae = make(kind)
        torch.testing.assert_close(sae.token_losses(x, 0.3).mean(), sae.loss(x, 0.3).loss, rtol=1e-5, atol=0)
    dense = sae.encode(x).to_dense()
    expected = (x - sae(x)).square().mean(1) + 0.3 * sae.cfg.l1_coefficient * dense.sum(1)
    torch.testing.assert_close(sae.token_losses(x, 0.3), expected.detach(), rtol=1e-5, atol=0)


def test_inputs_are_drawn_in_proportion_to_the_squared_loss(make, monkeypatch):
    """Step 3. 1,500 draws of one of four inputs, offered in two batches: counts within 5 standard deviations."""
    losses = torch.tensor([1.0, 2.0, 0.0, 3.0])
    x, sae = torch.arange(1.0, 5.0)[:, None].expand(4, D), make("relu")
    monkeypatch.setattr(sae, "token_losses", lambda x, scale: losses[x[:, 0].long() - 1])
    generator, counts, trials = torch.Generator().manual_seed(0), collections.Counter(), 1500
    for _ in range(trials):
        draw = InputDraw(sae, 1, PLAN, generator)
        draw.offer(x[:1])
        draw.offer(x[1:])
        counts[int(draw.rows[0, 0]) - 1] += 1
    for i, p in enumerate(losses.square() / losses.square().sum()):
        assert abs(counts[i] - trials * p) <= 5 * (trials * p * (1 - p)).sqrt()
    assert counts[2] == 0


def test_draws_are_without_replacement_and_never_of_zero_inputs(make):
    draw = InputDraw(make("relu"), 48, PLAN, torch.Generator().manual_seed(0))
    x = torch.randn(60, D)
    x[::2] = 0
    for part in x.split(7):
        draw.offer(part)
    assert len(draw.rows) == 30 == len(draw.rows.unique(dim=0)) and (draw.rows != 0).any(1).all()


def test_no_more_inputs_than_planned_are_used(make):
    draw = InputDraw(make("relu"), 300, PLAN, torch.Generator())
    x = torch.randn(280, D)
    draw.offer(x[:150])
    draw.offer(x[150:])
    assert draw.missing == 0 and len(draw.rows) == 200
    assert (draw.rows[:, None] == x[None, :200]).all(-1).any(1).all()


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_dead_neurons_restart_as_in_the_paper(make, config, source, kind):
    """Steps 1, 4, 5 and 6, on a run of exactly up to the first resampling."""
    sae, dead = make(kind), torch.tensor([3, 20, 47])
    kill(sae, dead)
    trainer = ms.Trainer(sae, config(steps=6, resample=PLAN, ema=0.9, init_bias=False), progress=False)
    learner, seen = trainer.learners[0], []
    original, write = learner.resample, {}

    def spy(inputs):
        write["dead"] = learner.dead.dead_for_steps(PLAN.window)
        write["before"] = {n: p.detach().clone() for n, p in sae.named_parameters()}
        write["adam"] = {n: t.clone() for n, t in learner.fast.state_dict().items()}
        seen.append(inputs)
        return original(inputs)

    learner.resample = spy
    stream = source(batch_size=64)
    trainer.fit(stream)
    was = write["dead"]
    assert was[dead].all() and len(seen) == 1 and learner.resampled == was.sum() == len(seen[0])
    features, before = was.nonzero().flatten(), write["before"]
    unit = torch.nn.functional.normalize(seen[0], dim=1)
    norm = 0.2 * before["W_enc_rows"][~was].norm(dim=1).mean()
    torch.testing.assert_close(sae.W_dec.detach()[features], unit)
    torch.testing.assert_close(sae.W_enc_rows.detach()[features], unit * norm)
    assert (sae.b_enc[features] == 0).all()
    state = learner.fast.state_dict()
    for n in ("W_enc_rows", "W_dec", "b_enc"):
        assert torch.equal(dict(sae.named_parameters())[n].detach()[~was], before[n][~was])  # the others: untouched
        for moment in ("m", "v"):
            assert (state[f"{moment}.{n}"][features] == 0).all()
            assert torch.equal(state[f"{moment}.{n}"][~was], write["adam"][f"{moment}.{n}"][~was])
    assert torch.equal(sae.b_dec, before["b_dec"])
    assert not learner.dead.dead_for_steps(1)[features].any() and not learner.dead.dead_for_tokens(1)[features].any()
    torch.testing.assert_close(trainer.averaged().W_dec.detach()[features], unit)
    # 6 batches of training and the 4 that hold 200 inputs; the inputs are of those four, scaled or not
    assert stream.state_dict()["batch"] == 10
    pool = torch.cat([stream.batch(i) for i in range(6, 10)])[:200]
    assert (seen[0][:, None] == pool[None]).all(-1).any(1).all()


def test_a_neuron_that_fired_within_the_window_is_not_resampled(make):
    learner = Learner(make("relu"), ms.TrainConfig(resample=PLAN))
    fired = torch.zeros(F, dtype=torch.bool)
    learner.dead.update(fired, 64)
    learner.dead.update(fired.index_fill(0, torch.tensor([7]), True), 64)
    for _ in range(4):
        learner.dead.update(fired, 64)
    assert not learner.dead.dead_for_steps(5)[7] and learner.dead.dead_for_steps(5).sum() == F - 1
    assert learner.resampling(5) is None and learner.resampling(6) is not None


def test_the_position_in_the_data_depends_on_the_plan_alone(make, config, source):
    stream = source()
    trainer = ms.Trainer(make("relu"), config(steps=13, resample=PLAN), progress=False).fit(stream)
    assert trainer.learners[0].resampled == 0 and trainer.tokens_done == 13 * 64
    assert stream.state_dict()["batch"] == 13 + 2 * 4


def test_a_stream_may_end_while_resampling(make, config, source):
    sae = make("relu")
    kill(sae, torch.arange(40))
    trainer = ms.Trainer(sae, config(steps=20, resample=PLAN), progress=False)
    with pytest.warns(RuntimeWarning, match="ended after 6 of 20 steps"):
        trainer.fit(source(batches=7))
    assert trainer.learners[0].resampled >= 40


def test_restarted_features_have_initial_vectors_and_the_mean_norm_where_norms_are_free():
    features, alive = torch.tensor([1, 5]), torch.arange(F) > 5
    x = torch.randn(2, D, generator=torch.Generator().manual_seed(0))
    free = ms.ReLUSAE(D, F, decoder_norm="free", seed=0)
    gated = ms.GatedSAE(D, F, seed=0)
    with torch.no_grad():
        free.W_dec.mul_(torch.linspace(1, 3, F)[:, None])
        for vector in (gated.r_mag, gated.b_mag):
            vector.fill_(2.0)
    others = gated.W_dec.detach().clone()
    free.restart_features(features, x, alive, 0.2)
    gated.restart_features(features, x, alive, 0.2)
    mean = free.W_dec[alive].norm(dim=1).mean()
    torch.testing.assert_close(free.W_dec[features], torch.nn.functional.normalize(x) * mean)
    torch.testing.assert_close(gated.W_dec[features], torch.nn.functional.normalize(x))
    assert torch.equal(gated.W_dec[alive], others[alive])
    for vector in (gated.r_mag, gated.b_mag):
        assert not vector[features].any() and (vector[alive] == 2).all()
