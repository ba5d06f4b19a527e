"""Crosscoders: several sources in one dictionary, and which features each of them has."""

import pytest
import torch

import monosem as ms

L, D, F = 2, 16, 16


def planted(n=4096, seed=0):
    """Two models: 6 directions of both (another direction in each), 3 that only the first has, 3 only the second.

    Returns activations [n, L·D], the rows of the 12 directions [12, L·D], and the source of each (-1: both).
    """
    g = torch.Generator().manual_seed(seed)
    owners = torch.tensor([-1] * 6 + [0] * 3 + [1] * 3)
    present = torch.stack([owners != 1, owners != 0], 1)[:, :, None]
    rows = torch.nn.functional.normalize(torch.randn(12, L, D, generator=g), dim=-1) * present
    f = (0.5 + torch.rand(n, 12, generator=g)) * (torch.rand(n, 12, generator=g) < 0.1)
    return f @ rows.flatten(1), rows.flatten(1), owners


@pytest.mark.filterwarnings("ignore:product")  # tokens without a feature are zeros
@pytest.mark.parametrize("activation", ["relu", "batch_topk"])
def test_shared_and_exclusive_directions_are_told_apart(activation):
    x, rows, owners = planted()
    sae = ms.Crosscoder(L * D, F, L, 2e-3, activation, k=1, aux_k=8, seed=0)
    ms.Trainer(sae, ms.TrainConfig(lr=5e-3, batch_size=256, steps=400, dead_after=5000), progress=False).fit(x)
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], sae.W_dec.detach(), dim=2)
    best, features = cosines.max(1)
    assert (best > 0.95).all()
    assert torch.equal(sae.owners()[features], owners)
    assert (sae.relative_norms()[features][owners < 0] - 0.5).abs().max() < 0.12


def test_a_batch_by_source_is_the_batch_side_by_side():
    sae, x = ms.Crosscoder(L * D, F, L, 0.02, seed=0), torch.randn(10, L, D)
    by_source, flat = sae.loss(x), sae.loss(x.flatten(1))
    assert torch.equal(by_source.loss, flat.loss)
    assert torch.equal(by_source.reconstruction, flat.reconstruction.view(10, L, D))
    assert torch.equal(sae(x).flatten(1), sae(x.flatten(1))) and sae(x).shape == x.shape
    assert torch.equal(sae.encode(x).to_dense(), sae.encode(x.flatten(1)).to_dense())


def test_a_step_takes_the_sources_in_any_form():
    x, weights = torch.randn(10, L, D), []
    for batch in (x, x.flatten(1), list(x.unbind(1)), x.numpy()):
        sae = ms.Crosscoder(L * D, F, L, 0.02, seed=0)
        ms.Trainer(sae, ms.TrainConfig(steps=2), progress=False).step(batch)
        weights.append(sae.W_dec.detach())
    assert all(torch.equal(w, weights[0]) for w in weights)


def test_relative_norms_are_shares_of_the_sum():
    sae = ms.Crosscoder(3 * D, F, 3, seed=0)
    with torch.no_grad():
        sae.W_dec[0] = 0
        sae.W_dec[1, D:] = 0
        sae.W_dec[2].view(3, D)[1:] *= 1e-3
    relative = sae.relative_norms()
    torch.testing.assert_close(relative.sum(1), torch.ones(F))
    assert torch.equal(relative[0], torch.full((3,), 1 / 3)) and torch.equal(relative[1], torch.tensor([1.0, 0, 0]))
    assert sae.owners()[:4].tolist() == [-1, 0, 0, -1]


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"d_in: got 33 with n_sources=2; wanted a multiple"):
        ms.Crosscoder(33, F)
    with pytest.raises(ValueError, match=r"n_sources: got 0; wanted a positive integer"):
        ms.Crosscoder(32, F, 0)
    with pytest.raises(ValueError, match=r"activation: got 'gated'; wanted one of relu, topk, batch_topk, jumprelu"):
        ms.Crosscoder(32, F, activation="gated")
    with pytest.raises(ValueError, match=r"exclusive: got 0.2; wanted a relative norm above 0.5"):
        ms.Crosscoder(32, F).owners(0.2)
