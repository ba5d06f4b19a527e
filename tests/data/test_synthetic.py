"""Known features: the statistics that the docstring promises, exact position, and the measure of recovery."""

import json

import pytest
import torch

from monosem.data.synthetic import SyntheticDictionary, mean_max_cosine


def test_statistics():
    data = SyntheticDictionary(64, 200, active=8, batch_size=20_000)
    x = data.batch(0)
    assert x.shape == (20_000, 64) and x.dtype == torch.float32
    assert data.features.shape == (200, 64)
    torch.testing.assert_close(data.features.norm(dim=1), torch.ones(200))
    # E|x|² = E[Σ c²] + |E[Σ c f]|² with c uniform on [0.5, 1.5) (E c² = 13/12) and a Poisson number of terms
    expected = 8 * 13 / 12 + 8**2 * float(data.features.mean(0).square().sum())
    assert float(x.square().sum(1).mean()) == pytest.approx(expected, rel=0.03)
    torch.testing.assert_close(x.mean(0), 8 * data.features.mean(0), atol=0.05, rtol=0)


def test_a_token_is_a_sum_of_features():
    data = SyntheticDictionary(300, 40, active=3, batch_size=500)
    coefficients = torch.linalg.lstsq(data.features.T, data.batch(2).T).solution.T
    torch.testing.assert_close(coefficients @ data.features, data.batch(2), atol=1e-4, rtol=0)
    active = coefficients > 0.1
    assert coefficients[~active].abs().max() < 1e-3 and coefficients[active].min() > 0.49
    assert 2.5 < float(active.sum(1).float().mean()) < 3.1


def test_batches_depend_on_seed_and_number_only():
    one, same, other = (SyntheticDictionary(8, 20, 2, seed, batch_size=16) for seed in (3, 3, 4))
    assert torch.equal(one.batch(5), same.batch(5)) and torch.equal(one.features, same.features)
    assert not torch.equal(one.batch(5), one.batch(6)) and not torch.equal(one.batch(5), other.batch(5))
    assert not torch.equal(SyntheticDictionary(8, 20, 2, 3, batch_size=16, noise=0.1).batch(5), one.batch(5))


def test_resume():
    data = SyntheticDictionary(8, 20, 2, batch_size=16, batches=6)
    batches = iter(data)
    for _ in range(4):
        next(batches)
    resumed = SyntheticDictionary(8, 20, 2, batch_size=16, batches=6)
    resumed.load_state_dict(json.loads(json.dumps(data.state_dict())))
    assert [torch.equal(a, b) for a, b in zip(batches, resumed, strict=True)] == [True, True]
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        SyntheticDictionary(8, 20, 2, 1, batch_size=16).load_state_dict(data.state_dict())


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"d_in": 0}, "d_in: got 0"),
        ({"n_features": 1.5}, "n_features: got 1.5"),
        ({"active": 0}, "active: got 0"),
        ({"active": 21}, "active: got 21.*at most 20"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_bad_input(bad, message):
    with pytest.raises(ValueError, match=message):
        SyntheticDictionary(**{"d_in": 8, "n_features": 20, "active": 2} | bad)


def test_mean_max_cosine():
    true = SyntheticDictionary(32, 3000, 4).features
    assert mean_max_cosine(true[torch.randperm(3000)] * 7, true) == pytest.approx(1)
    assert mean_max_cosine(-true[:1], true[:1]) == pytest.approx(-1)
    assert mean_max_cosine(torch.eye(4)[:2], torch.eye(4)) == pytest.approx(0.5)
    assert mean_max_cosine(torch.zeros(2, 4), torch.eye(4)) == 0
    with pytest.raises(ValueError, match=r"got \[2, 3\] and \[2, 4\]"):
        mean_max_cosine(torch.zeros(2, 3), torch.zeros(2, 4))


def test_an_autoencoder_of_the_same_seed_starts_away_from_the_true_features():
    source = SyntheticDictionary(32, 64, 3, seed=5)
    drawn = torch.randn(64, 32, generator=torch.Generator().manual_seed(5))
    assert mean_max_cosine(drawn, source.features) < 0.7
