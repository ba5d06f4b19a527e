"""Logit weights against the dense product."""

import pytest
import torch

from monosem.analysis.logits import logit_weights, used_vocabulary


def test_logit_weights_are_centred_over_the_used_vocabulary(model, lossy, hook):
    used = torch.ones(14, dtype=torch.bool)
    used[[0, 5]] = False
    got = logit_weights(lossy, model, hook, used, count=3, block=7)
    some = logit_weights(lossy, model, hook, used, count=3, features=torch.tensor([5, 2]))
    assert torch.equal(some.top_ids, got.top_ids[[5, 2]]) and torch.allclose(some.spread, got.spread[[5, 2]])
    w = (lossy.W_dec @ model.U).detach()[:, used]
    w = w - w.median(1, keepdim=True).values
    ids = used.nonzero().flatten()
    assert torch.equal(got.top_ids, ids[w.topk(3).indices])
    assert torch.allclose(got.top_values, w.topk(3).values, atol=1e-6)
    assert torch.allclose(got.bottom_values, w.topk(3, largest=False).values, atol=1e-6)
    assert torch.allclose(got.spread, w.abs().median(1).values, atol=1e-6)
    assert torch.allclose(got.skewness, w.pow(3).mean(1) / w.square().mean(1).pow(1.5), atol=1e-5)


def test_used_vocabulary_has_a_minimum_count():
    assert used_vocabulary(torch.tensor([[1, 1, 2], [1, 2, 3]]), 5, min_count=2).tolist() == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_an_empty_used_vocabulary_is_refused(model, lossy, hook):
    with pytest.raises(ValueError, match="used: got 0"):
        logit_weights(lossy, model, hook, torch.zeros(14, dtype=torch.bool))
