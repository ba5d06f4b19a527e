"""HierarchicalTopK: budgets, chunks of tokens, and reconstructions at every k."""

import pytest
import torch

import monosem as ms
from monosem.nn.architectures import hierarchical_topk

D, F = 12, 40


def test_chunks_of_tokens_give_the_same_gradients(monkeypatch):
    sae, x = ms.HierarchicalTopKSAE(D, F, 6, aux_k=4, seed=0), torch.randn(37, D)
    dead = torch.arange(F) % 3 == 0
    whole = sae.gradients(x, 1.0, dead)
    expected = whole.parameters.multiplied()
    monkeypatch.setattr(hierarchical_topk, "BYTES", 8 * 6 * D * 4)  # eight tokens: chunks of 8, 8, 8, 8 and 5
    chunked = sae.gradients(x, 1.0, dead)
    for name in ("loss", "mse", "sparsity", "aux", "l0"):
        torch.testing.assert_close(getattr(chunked, name), getattr(whole, name))
    assert torch.equal(chunked.fired, whole.fired)
    for name, array in chunked.parameters.multiplied().items():
        torch.testing.assert_close(array, expected[name], rtol=1e-4, atol=1e-7)


def test_one_dictionary_reconstructs_at_every_k():
    g = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(F, D, generator=g), dim=1)
    x = (torch.rand(4096, F, generator=g) * (torch.rand(4096, F, generator=g) < 0.15)) @ features
    errors = {}
    for cls in (ms.TopKSAE, ms.HierarchicalTopKSAE):
        sae = cls(D, F, 8, seed=0)
        ms.Trainer(sae, ms.TrainConfig(lr=3e-3, batch_size=256, steps=300), progress=False).fit(x)
        codes = [ms.ops.topk_encode(sae.centred(x), sae.W_enc_rows, sae.b_enc, k) for k in (1, 2, 8)]
        errors[cls] = [float((sae.decode(c) - x).square().mean().detach()) for c in codes]
    assert torch.equal(sae.encode(x, k=2).to_dense(), codes[1].to_dense())
    assert sorted(errors[ms.HierarchicalTopKSAE], reverse=True) == errors[ms.HierarchicalTopKSAE]
    for hierarchical, plain in zip(*(errors[c][:2] for c in (ms.HierarchicalTopKSAE, ms.TopKSAE)), strict=True):
        assert hierarchical < plain


def test_budgets_follow_an_annealed_k():
    some = ms.HierarchicalTopKSAE(D, F, 8, budgets=(2, 4), initial_k=16, k_anneal=0.5)
    every = ms.HierarchicalTopKSAE(D, F, 3, initial_k=5, k_anneal=0.5)
    for sae, first in ((some, (2, 4, 8, 16)), (every, (1, 2, 3, 4, 5))):
        sae.progress = 0.0
        assert sae.composition.nesting.sizes == first
        sae.progress = 1.0
        assert sae.composition.nesting.sizes == sae.cfg.budgets
    assert some.cfg.budgets == (2, 4, 8) and every.cfg.budgets == (1, 2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.HierarchicalTopKSAE(D, F, 8, budgets=(4, 2)), r"budgets: got \(4, 2\); wanted ascending numbers"),
        (lambda: ms.HierarchicalTopKSAE(D, F, 8, budgets=(9,)), r"budgets: got \(9,\); wanted ascending numbers"),
        (lambda: ms.HierarchicalTopKSAE(D, F, 8, budgets="some"), r"budgets: got 'some'; wanted integers"),
        (lambda: ms.HierarchicalTopKSAE(D, F, 8).encode(torch.zeros(1, D), k=41), r"k: got 41; wanted an integer"),
        (lambda: ms.GroupMaxSAE(D, F, 7), r"k: got 7; wanted a divisor of d_sae=40"),
        (lambda: ms.GroupMaxSAE(D, F, 8, initial_k=4), r"initial_k: got 4; wanted None"),
        (lambda: ms.AbsTopKSAE(D, F, 41), r"k: got 41; wanted an integer from 1 to d_sae=40"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
