"""Sampled prefixes: their distribution, and that they depend on the seed of the run and the step alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import monosem as ms
from monosem.nn import Prefixes
from monosem.nn.nesting import sampled_prefixes

D, F = 8, 40


def test_sizes_follow_the_truncated_pareto_law():
    d_sae, least, draws = 24, 3, 40_000
    counts = np.zeros(d_sae + 1)
    for step in range(draws):
        sizes = sampled_prefixes.__wrapped__(2, least, d_sae, seed=1, step=step).sizes
        assert sizes[-1] == d_sae and len(sizes) == 2
        counts[sizes[0]] += 1
    # The source's array of probabilities: differences of √(i/n) of i = 0 … n, after `least` zeros.
    steps = np.sqrt(np.arange(d_sae - least + 1) / (d_sae - least))
    expected = draws * np.concatenate([np.zeros(least), np.diff(steps), [0]])
    assert counts[:least].sum() == 0 == counts[d_sae]
    inner = expected > 0
    chi_squared = ((counts - expected)[inner] ** 2 / expected[inner]).sum()
    assert chi_squared < 47.5  # 20 degrees of freedom: exceeded once in 2,000


@pytest.mark.parametrize(
    ("n", "least", "d_sae"), [(1, 1, 40), (5, 1, 40), (40, 1, 40), (4, 37, 40), (1, 40, 40), (1, 1, 1)]
)
def test_sizes_are_distinct_and_end_with_all_features(n, least, d_sae):
    for step in range(50):
        sizes = sampled_prefixes(n, least, d_sae, seed=0, step=step).sizes
        assert len(sizes) == n and sizes[-1] == d_sae and sizes[0] >= least
        assert all(a < b for a, b in pairwise(sizes))


def test_sizes_depend_on_the_seed_and_the_step_alone():
    before = torch.get_rng_state()
    drawn = [sampled_prefixes.__wrapped__(5, 1, 4096, seed, step).sizes for seed in (0, 1) for step in range(30)]
    assert len(set(drawn)) == 60
    torch.manual_seed(9)
    assert drawn == [
        sampled_prefixes.__wrapped__(5, 1, 4096, seed, step).sizes for seed in (0, 1) for step in range(30)
    ]
    torch.set_rng_state(before)
    assert drawn[0] == (792, 951, 1859, 1926, 4096)  # of every version: a run is resumed by a later one


def test_a_run_draws_by_its_seed_and_step_and_dictionaries_side_by_side_alike():
    seen = []

    class Watched(ms.MatryoshkaSAE):
        def gradients(self, *args, **kwargs):
            seen.append((self.composition.nesting.sizes, self.settings_now() == self.composition))
            return super().gradients(*args, **kwargs)

    pair = [Watched(D, F, 4, n_prefixes=3, seed=seed) for seed in (0, 1)]
    x = [torch.randn(8, D) for _ in range(4)]
    ms.Trainer(pair, ms.TrainConfig(steps=4, seed=7), progress=False).fit(iter(x))
    expected = [sampled_prefixes(3, 1, F, 7, step).sizes for step in range(4) for _ in pair]
    assert seen == [(sizes, True) for sizes in expected]


def test_inference_and_evaluations_do_not_depend_on_draws():
    sae = ms.MatryoshkaSAE(D, F, 4, n_prefixes=3, seed=0).eval()
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(0))
    codes, losses = [], []
    for step in (0, 1):
        sae.seed_and_step = (0, step)
        codes.append((sae(x), sae.token_losses(x), sae.encode(x).to_dense()))
        losses.append(sae.loss(x))
    assert all(torch.equal(a, b) for a, b in zip(*codes, strict=True))
    assert losses[0].loss != losses[1].loss
    torch.testing.assert_close(losses[0].mse, losses[1].mse)  # of all features, added up in other parts


def test_a_file_keeps_the_settings_of_draws(tmp_path):
    sae = ms.MatryoshkaSAE(D, F, 4, n_prefixes=3, min_prefix_length=2, seed=0)
    again = ms.load(ms.save(sae, tmp_path / "d"))
    assert again.cfg == sae.cfg and again.cfg.prefixes == (F,)
    again.seed_and_step = sae.seed_and_step = (1, 5)
    assert again.composition.nesting == sae.composition.nesting != Prefixes((F,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"n_prefixes": 0},
            r"n_prefixes: got 0; wanted an integer from 1 to 40, the sizes from min_prefix_length=1 to",
        ),
        ({"n_prefixes": 41}, r"n_prefixes: got 41; wanted an integer from 1 to 40"),
        ({"n_prefixes": 2.0}, r"n_prefixes: got 2.0; wanted an integer"),
        (
            {"n_prefixes": 5, "min_prefix_length": 37},
            r"n_prefixes: got 5; wanted an integer from 1 to 4, the sizes from",
        ),
        ({"n_prefixes": 3, "min_prefix_length": 0}, r"min_prefix_length: got 0; wanted an integer from 1 to d_sae=40"),
        (
            {"n_prefixes": 3, "min_prefix_length": 41},
            r"min_prefix_length: got 41; wanted an integer from 1 to d_sae=40",
        ),
        (
            {"n_prefixes": 3, "prefixes": (8, F)},
            r"prefixes: got \(8, 40\) beside n_prefixes=3, which are drawn; wanted one",
        ),
    ],
)
def test_bad_settings_of_draws_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ms.MatryoshkaSAE(D, F, 4, **settings)
