"""Settings of JumpReLU that follow the scale of the data."""

from dataclasses import asdict

import pytest
import torch

import monosem as ms
from monosem.train.same_run import keep_measured

D, F, N = 24, 96, 512

KINDS = {
    "jumprelu": lambda **more: ms.JumpReLUSAE(D, F, seed=0, **more),
    "free": lambda **more: ms.JumpReLUSAE(D, F, decoder_norm="free", seed=0, **more),
    "matryoshka": lambda **more: ms.MatryoshkaSAE(D, F, activation="jumprelu", prefixes=(12, F), seed=0, **more),
    "crosscoder": lambda **more: ms.Crosscoder(D, F, 2, activation="jumprelu", seed=0, **more),
}


def batch(scale=1.0):
    return scale * (torch.randn(N, D, generator=torch.Generator().manual_seed(1)) + 0.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 250.0])
def test_theta_starts_where_a_tenth_of_the_features_is_active(kind, scale):
    sae, x = KINDS[kind](), batch(scale)
    sae.initialize(x)
    assert not sae.cfg.unmeasured and sae.cfg.bandwidth == pytest.approx(0.2 * sae.cfg.initial_threshold, rel=0.01)
    assert torch.all(sae.threshold == sae.cfg.initial_threshold)
    assert float(sae.encode(x).l0()) == pytest.approx(0.0968 * F, rel=0.15)  # P(z > 1.3) of a normal z


def test_the_penalty_of_a_feature_follows_the_square_of_the_scale():
    small, large, aimed = KINDS["jumprelu"](), KINDS["jumprelu"](), KINDS["jumprelu"](target_l0=8.0)
    for sae, scale in ((small, 1.0), (large, 10.0), (aimed, 1.0)):
        sae.initialize(batch(scale))
    square = float((batch() - small.b_dec.detach()).square().mean())
    assert small.cfg.l0_coefficient == pytest.approx(0.007 * square, rel=5e-3)  # kept to three digits
    assert large.cfg.l0_coefficient == pytest.approx(100 * small.cfg.l0_coefficient, rel=0.02)
    assert aimed.cfg.l0_coefficient == pytest.approx(0.7 * square, rel=5e-3)


def test_given_numbers_are_kept():
    sae = KINDS["jumprelu"](initial_threshold=0.25, l0_coefficient=0.5)
    sae.initialize(batch(10.0))
    assert (sae.cfg.initial_threshold, sae.cfg.l0_coefficient) == (0.25, 0.5) and torch.all(sae.threshold == 0.25)
    assert sae.cfg.bandwidth == pytest.approx(2.6, rel=0.1)


def test_before_a_batch_the_scale_is_one():
    sae = KINDS["jumprelu"]()
    assert torch.all(sae.threshold == torch.tensor(1.3)) and sae.composition.activation.bandwidth == 0.26
    assert "λ = auto" in sae.cfg.describe() and "λ = auto" in KINDS["matryoshka"]().cfg.describe()


def test_a_batch_without_a_scale_is_refused():
    for bad in (torch.zeros(N, D), torch.full((N, D), torch.nan)):
        with pytest.raises(ValueError, match=r"sample: its mean square is .*; wanted activations that are finite"):
            KINDS["jumprelu"]().measure(bad)


def test_kinds_without_thresholds_leave_nothing_to_the_data():
    for sae in (ms.TopKSAE(D, F, 4), ms.MatryoshkaSAE(D, F, 4, prefixes=(8, F)), ms.Crosscoder(D, F, 2)):
        assert not sae.cfg.unmeasured
        before = asdict(sae.cfg)
        sae.measure(batch())
        assert asdict(sae.cfg) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bandwidth": "wide"}, "bandwidth: got 'wide'; wanted a number above 0"),
        ({"initial_threshold": -1.0}, "initial_threshold: got -1.0; wanted a number of at least 0"),
        ({"l0_coefficient": None}, "l0_coefficient: got None; wanted a number of at least 0"),
    ],
)
def test_other_words_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        KINDS["jumprelu"](**settings)


class Rows:
    """An endless stream of batches."""

    n_tokens, hook_name, model_name = 1 << 20, "x", "rows"

    def __init__(self, scale=3.0):
        self.generator, self.scale = torch.Generator().manual_seed(5), scale

    def __iter__(self):
        while True:
            yield self.scale * torch.randn(64, D, generator=self.generator)


@pytest.mark.parametrize("init_bias", [True, False])
def test_a_run_measures_once_and_goes_on_with_the_same_numbers(tmp_path, init_bias):
    def trainer(sae, steps, folder="run", **more):
        cfg = ms.TrainConfig(steps=steps, batch_size=64, lr=1e-3, checkpoint_every=4, init_bias=init_bias, seed=0)
        return ms.Trainer(sae, cfg, tmp_path / folder, progress=False, **more)

    first = KINDS["jumprelu"]()
    trainer(first, 8).fit(Rows())
    assert first.cfg.bandwidth == pytest.approx(3 * 0.26, rel=0.1)
    assert ms.load(tmp_path / "run").cfg == first.cfg
    again = KINDS["jumprelu"]()  # "auto" again: the numbers are those of the run
    trainer(again, 12).fit(Rows())
    assert again.cfg == first.cfg
    with pytest.raises(ValueError, match=r"sae\.bandwidth is 0\.\d+ there and 0\.5 here"):
        trainer(KINDS["jumprelu"](bandwidth=0.5), 16).fit(Rows())
    later = KINDS["jumprelu"]()
    started = trainer(later, 1, "later", start=tmp_path / "run")
    assert later.cfg == first.cfg
    started.fit(Rows(100.0))
    assert later.cfg == first.cfg and not torch.all(later.threshold == later.cfg.initial_threshold)


def test_a_new_run_with_another_target_chooses_its_own_coefficient():
    saved = {"kind": "jumprelu", "l0_coefficient": 1e-3, "bandwidth": 0.5, "initial_threshold": 2.0, "target_l0": None}
    same, aimed = KINDS["jumprelu"](), KINDS["jumprelu"](target_l0=8.0)
    for sae in (same, aimed):
        keep_measured(sae, saved)
        assert (sae.cfg.bandwidth, sae.cfg.initial_threshold) == (0.5, 2.0)
    assert same.cfg.l0_coefficient == 1e-3 and aimed.cfg.unmeasured == ("l0_coefficient",)


def test_numbers_of_another_kind_are_not_taken():
    sae = KINDS["jumprelu"]()
    keep_measured(sae, {"kind": "matryoshka", "bandwidth": 0.5})
    assert sae.cfg.unmeasured == ("l0_coefficient", "bandwidth", "initial_threshold")
