import copy

import pytest
import torch

import monosem as ms
from monosem.train.ema import Ema


def test_average_is_the_geometric_sum_of_the_weights(sae):
    ema, expected = Ema(sae, 0.9), sae.W_dec.detach().double().clone()
    for _ in range(5):
        with torch.no_grad():
            sae.W_dec.add_(torch.randn_like(sae.W_dec))
        ema.update()
        expected = 0.9 * expected + 0.1 * sae.W_dec.detach().double()
    averaged = copy.deepcopy(sae)
    ema.copy_to(averaged)
    torch.testing.assert_close(averaged.W_dec.double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(averaged.b_enc, sae.b_enc)


def test_restart_forgets_the_past_of_the_rows_named_only(sae):
    ema, before = Ema(sae, 0.9), copy.deepcopy(sae)
    with torch.no_grad():
        for p in sae.parameters():
            p.add_(1)
    ema.restart(torch.tensor([2, 5]))
    averaged = copy.deepcopy(sae)
    ema.copy_to(averaged)
    for name in ("W_enc_rows", "W_dec", "b_enc"):
        old, new, got = (getattr(m, name).detach() for m in (before, sae, averaged))
        assert torch.equal(got[[2, 5]], new[[2, 5]]) and torch.equal(got[:2], old[:2])
    assert torch.equal(averaged.b_dec, before.b_dec)


def test_the_trainer_averages_only_when_configured(make, config, source):
    trainer = ms.Trainer(make("topk"), config(ema=0.5), progress=False).fit(source())
    assert not torch.equal(trainer.averaged().W_dec, trainer.learners[0].sae.W_dec)
    with pytest.raises(ValueError, match="ema: got None"):
        ms.Trainer(make("topk"), config()).averaged()
