"""Transcoders: batches of pairs, the skip connection, and training from a loader of pairs."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import monosem as ms

D, D_OUT, F = 12, 7, 40


def pair(n=30, seed=0):
    x, y = torch.randn(n, D + D_OUT, generator=torch.Generator().manual_seed(seed)).split([D, D_OUT], 1)
    return x.contiguous(), y.contiguous()


def test_a_pair_and_the_batch_of_both_have_the_same_loss():
    sae, (x, y) = ms.Transcoder(D, D_OUT, F, 5, skip=True, seed=0), pair()
    torch.nn.init.normal_(sae.W_skip)
    of_pair, of_batch = sae.loss(x, y), sae.loss(torch.cat([x, y], 1))
    assert torch.equal(of_pair.loss, of_batch.loss)
    torch.testing.assert_close(of_pair.reconstruction, sae(x))
    torch.testing.assert_close((sae(x) - y).square().mean(), of_pair.mse)
    torch.testing.assert_close(sae.token_losses(torch.cat([x, y], 1)).mean(), of_pair.mse)
    assert torch.equal(sae.loss(x, y, sparsity_scale=0.5).loss, sae.loss(x, y, 0.5).loss)


def test_the_decoder_bias_begins_at_the_median_of_the_targets():
    sae, (x, y) = ms.Transcoder(D, D_OUT, F, seed=0), pair()
    assert torch.equal(sae.initialize(torch.cat([x, y + 3], 1)).b_dec, ms.nn.geometric_median(y + 3))


def test_a_linear_map_is_left_to_the_skip_connection():
    x, _ = pair(4096)
    y = x @ torch.randn(D, D_OUT, generator=torch.Generator().manual_seed(1))
    losses = {}
    for skip in (False, True):
        sae = ms.Transcoder(D, D_OUT, F, 1, aux_k=0, skip=skip, seed=0)
        trainer = ms.Trainer(sae, ms.TrainConfig(lr=1e-2, batch_size=256, steps=300), progress=False)
        losses[skip] = float(trainer.fit(torch.cat([x, y], 1)).learners[0].sae.loss(x, y).mse.detach())
    assert losses[True] < 0.05 * losses[False]


def test_a_loader_of_pairs_trains_and_resumes_to_the_same_bits(tmp_path):
    x, y = pair(640)
    loader = DataLoader(TensorDataset(x, y), batch_size=64)
    config = ms.TrainConfig(batch_size=64, steps=10, checkpoint_every=4)

    def trained(folder, steps=10):
        sae = ms.Transcoder(D, D_OUT, F, 5, "batch_topk", skip=True, seed=0)
        trainer = ms.Trainer(sae, config, folder, progress=False)
        return trainer.fit(batch for i, batch in enumerate(loader) if i < steps)

    trained(tmp_path / "whole")
    with pytest.warns(RuntimeWarning, match="ended after 5 of 10 steps"):
        trained(tmp_path / "parts", 5)
    trained(tmp_path / "parts")
    whole, parts = ms.load(tmp_path / "whole"), ms.load(tmp_path / "parts")
    assert type(whole) is ms.Transcoder and whole.W_skip.any() and whole.cfg.d_out == D_OUT
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name


def test_a_step_takes_the_pair_or_both_side_by_side():
    weights = []
    for batch in (pair(), list(pair()), torch.cat(pair(), 1), [t.numpy() for t in pair()]):
        sae = ms.Transcoder(D, D_OUT, F, 5, seed=0)
        ms.Trainer(sae, ms.TrainConfig(steps=2), progress=False).step(batch)
        weights.append(sae.W_dec.detach())
    assert all(torch.equal(w, weights[0]) for w in weights)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (pair()[0], r"batch 0: got shape \[30, 12\]; wanted \[N, 19\], widths 12 \+ 7 side by side, or a list of 2"),
        (pair()[::-1], r"batch 0: got shapes \[\[30, 7\], \[30, 12\]\]; wanted \[\['N', 12\], \['N', 7\]\]"),
        ((pair()[0], pair(20)[1]), r"batch 0: got shapes \[\[30, 12\], \[20, 7\]\]; wanted"),
        ((pair()[0], pair()[1].double()), r"got torch.float32 on cpu, torch.float64 on cpu; wanted the same for all 2"),
    ],
)
def test_a_batch_of_other_widths_is_refused(batch, message):
    trainer = ms.Trainer(ms.Transcoder(D, D_OUT, F, 5), ms.TrainConfig(steps=2), progress=False)
    with pytest.raises(ValueError, match=message):
        trainer.step(batch)


def test_pairs_are_refused_by_kinds_that_have_none():
    trainer = ms.Trainer(ms.TopKSAE(D, F, 5), ms.TrainConfig(steps=2), progress=False)
    with pytest.raises(TypeError, match=r"batch 0: got tuple of 2; wanted a tensor \[N, d_in=12\]"):
        trainer.step(pair())


def test_wrong_arguments_are_named():
    sae, (x, y) = ms.Transcoder(D, D_OUT, F, 5), pair()
    with pytest.raises(ValueError, match=r"x: got shape \[30, 12\]; wanted a batch \[..., 19\].*side by side: 12 \+ 7"):
        sae.loss(x)
    with pytest.raises(ValueError, match=r"x, y: got shapes \[30, 7\] and \[30, 12\]; wanted \[..., d_in=12\]"):
        sae.loss(y, x)
    with pytest.raises(ValueError, match=r"x: got shape \[30, 19\]; wanted \[..., d_in=12\]"):
        sae.encode(torch.cat([x, y], 1))
    with pytest.raises(ValueError, match=r"d_out: got 0; wanted a positive integer"):
        ms.Transcoder(D, 0, F)
    with pytest.raises(ValueError, match=r"skip: got 'yes'; wanted True or False"):
        ms.Transcoder(D, D_OUT, F, skip="yes")
    with pytest.raises(ValueError, match=r"activation: got 'gelu'; wanted one of topk, batch_topk"):
        ms.Transcoder(D, D_OUT, F, activation="gelu")


def test_a_restarted_feature_reads_the_input_and_writes_the_target():
    sae, (x, y) = ms.Transcoder(D, D_OUT, F, activation="jumprelu", initial_threshold=0.3, seed=0), pair()
    with torch.no_grad():
        sae.threshold.fill_(9.0)
    alive = torch.arange(F) >= 2
    sae.restart_features(torch.tensor([0, 1]), torch.cat([x, y], 1)[:2], alive, 0.2)
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(sae.W_dec[:2], unit(y[:2]))
    torch.testing.assert_close(sae.W_enc_rows[:2], unit(x[:2]) * 0.2 * sae.W_enc_rows[2:].norm(dim=1).mean())
    assert (sae.threshold[:2] == 0.3).all() and (sae.threshold[2:] == 9).all()
