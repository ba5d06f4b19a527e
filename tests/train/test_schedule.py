import json
import math

import pytest

import monosem as ms
from monosem.train.schedule import learning_rate, sparsity_scale


def cfg(**options):
    return ms.TrainConfig(**{"lr": 2.0, "steps": 100, "lr_warmup": 0, "lr_decay": 0, "sparsity_warmup": 0} | options)


def test_constant_without_warmup_and_decay():
    assert {learning_rate(cfg(), step) for step in range(100)} == {2.0}
    assert {sparsity_scale(cfg(), step) for step in range(100)} == {1.0}


def test_warmup_is_linear_and_begins_above_zero():
    c = cfg(lr_warmup=4, sparsity_warmup=5)
    assert [learning_rate(c, step) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert [sparsity_scale(c, step) for step in range(7)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]


def test_shares_are_of_all_steps():
    shares, steps = cfg(lr_warmup=0.1, lr_decay=0.2), cfg(lr_warmup=10, lr_decay=20)
    assert [learning_rate(shares, s) for s in range(100)] == [learning_rate(steps, s) for s in range(100)]


def test_linear_decay_reaches_zero_at_the_end():
    c = cfg(lr_decay=10)
    assert [learning_rate(c, step) for step in (89, 90, 95, 99, 100, 120)] == pytest.approx([2.0, 2.0, 1.0, 0.2, 0, 0])


def test_cosine_decay_is_half_a_cosine():
    c = cfg(lr_decay=1.0, decay_shape="cosine")
    expected = [0.5 * 2.0 * (1 + math.cos(math.pi * step / 100)) for step in range(101)]
    assert [learning_rate(c, step) for step in range(101)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0.0}, {"lr": float("nan")}, {"steps": 0}, {"steps": 1.5}, {"batch_size": 0}, {"betas": (0.9, 1.0)},
        {"betas": (0.9,)}, {"eps": 0.0}, {"lr_warmup": 101}, {"lr_warmup": -1}, {"lr_decay": 1.5},
        {"lr_warmup": 60, "lr_decay": 41}, {"decay_shape": "step"}, {"clip": 0.0}, {"ema": 1.0}, {"dead_after": 0},
        {"resample": 3}, {"seed": -1}, {"log_every": 0}, {"checkpoint_every": 0}, {"init_bias": 1},
    ],
)  # fmt: skip
def test_bad_configuration_names_the_field(bad):
    with pytest.raises(ValueError, match=rf"{next(iter(bad))}.*got.*wanted"):
        cfg(**bad)


def test_a_resampling_plan_beyond_the_run_is_refused():
    with pytest.raises(ValueError, match=r"resample\.at_steps: .* steps=100, so that no neuron .*for_run"):
        cfg(resample=ms.ResampleConfig())


def test_configuration_survives_json():
    for c in (cfg(), cfg(ema=0.99, clip=1.0, resample=ms.ResampleConfig(at_steps=(40, 80), window=40), lr_decay=1.0)):
        assert ms.TrainConfig.from_json(json.loads(json.dumps(c.to_json()))) == c
    with pytest.raises(ValueError, match="unknown fields \\['speed'\\]"):
        ms.TrainConfig.from_json(cfg().to_json() | {"speed": 1})
