"""Settings that change during a run: by its progress alone, so that a resumed run follows them."""

import pytest
import torch

import monosem as ms
from monosem.nn import L1, Lp
from monosem.train.learner import Learner

D, F = 12, 40


def at(sae, progress):
    sae.progress = progress
    return sae.composition


@pytest.mark.parametrize(
    "make",
    [
        lambda **k: ms.TopKSAE(D, F, 4, **k),
        lambda **k: ms.BatchTopKSAE(D, F, 4, **k),
        lambda **k: ms.MatryoshkaSAE(D, F, 4, **k),
    ],
    ids=["topk", "batch_topk", "matryoshka"],
)
def test_k_goes_linearly_to_its_value(make):
    sae = make(initial_k=24, k_anneal=0.4)
    ks = [at(sae, p).activation.k for p in (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)]
    assert ks == [24, 19, 14, 9, 4, 4]
    sae = make(initial_k=2, k_anneal=0.4)
    assert [at(sae, p).activation.k for p in (0.0, 0.2, 0.4)] == [2, 3, 4]
    assert at(make(initial_k=24, k_anneal=0), 0.0).activation.k == 4
    assert {at(make(), p).activation.k for p in (0.0, 0.5, 1.0)} == {4}


def test_the_bandwidth_of_value_and_penalty_goes_linearly_to_its_value():
    for sae in (
        ms.JumpReLUSAE(D, F, bandwidth=0.1, initial_bandwidth=0.5, bandwidth_anneal=0.5),
        ms.Transcoder(D, 7, F, 4, "jumprelu", bandwidth=0.1, initial_bandwidth=0.5, bandwidth_anneal=0.5),
    ):
        for progress, bandwidth in ((0.0, 0.5), (0.25, 0.3), (0.5, 0.1), (1.0, 0.1)):
            parts = at(sae, progress)
            assert parts.activation.bandwidth == pytest.approx(bandwidth)
            assert parts.penalty.bandwidth == parts.activation.bandwidth


def test_p_goes_from_1_after_its_start_to_its_value_at_the_end():
    sae = ms.ReLUSAE(D, F, 0.02, p=0.2, p_start=0.5)
    assert [at(sae, p).penalty for p in (0.0, 0.5)] == [L1(0.02), L1(0.02)]
    assert at(sae, 0.75).penalty.p == pytest.approx(0.6) and at(sae, 1.0).penalty == Lp(0.02, 0.2)
    assert at(ms.ReLUSAE(D, F, 0.02), 0.9).penalty == L1(0.02)


def test_the_share_of_the_run_that_is_done_follows_the_steps():
    sae = ms.TopKSAE(D, F, 4)
    seen, loss = [], sae.gradients
    sae.gradients = lambda *a, **k: (seen.append(sae.progress), loss(*a, **k))[1]
    trainer = ms.Trainer(sae, ms.TrainConfig(steps=5), progress=False)
    assert sae.progress == 1.0  # before a run, settings have their last value
    trainer.fit(torch.randn(8, D) for _ in range(5))
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8] and sae.progress == 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: ms.BatchTopKSAE(D, F, 4, initial_k=20, k_anneal=0.9, seed=0),
        lambda: ms.ReLUSAE(D, F, 0.02, p=0.3, seed=0),
        lambda: ms.ReLUSAE(D, F, 0.02, p=0.3, p_updates=3, seed=0),
        lambda: ms.MatryoshkaSAE(D, F, 4, n_prefixes=4, seed=0),
        lambda: ms.JumpReLUSAE(D, F, 0.02, None, 0.05, 0.05, initial_bandwidth=1.0, bandwidth_anneal=0.8, seed=0),
    ],
    ids=["k", "p", "p_updates", "prefixes", "bandwidth"],
)
def test_a_resumed_run_follows_the_schedule_to_the_same_bits(make, tmp_path):
    config = ms.TrainConfig(steps=12, checkpoint_every=6, batch_size=32)
    x = torch.randn(400, D, generator=torch.Generator().manual_seed(0))
    for folder in ("whole", "parts"):
        ms.Trainer(make(), config, tmp_path / folder, progress=False).fit(x)
    ms.Trainer(make(), config, tmp_path / "parts", progress=False).fit(x, resume=6)
    whole, parts = ms.load(tmp_path / "whole"), ms.load(tmp_path / "parts")
    assert whole.cfg == make().cfg
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name


def test_a_run_of_a_version_without_a_setting_goes_on(tmp_path):
    """Settings that its checkpoint does not name have their defaults: as before there were such settings."""
    from monosem.train.same_run import check_same_run

    config = ms.TrainConfig(steps=4)
    for sae in (ms.TopKSAE(D, F, 4), ms.ReLUSAE(D, F)):
        own = Learner(sae, config).describe()
        saved = {part: dict(settings) for part, settings in own.items()}
        for name in ("initial_k", "k_anneal", "decoder_norm", "p", "p_start", "apply_b_dec_to_input"):
            saved["sae"].pop(name, None)
        assert not check_same_run([own], [saved], tmp_path)
    other = Learner(ms.TopKSAE(D, F, 4, initial_k=9), config).describe()
    with pytest.raises(ValueError, match=r"sae.initial_k is 7 there and 9 here"):
        check_same_run([other], [{**other, "sae": other["sae"] | {"initial_k": 7}}], tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.TopKSAE(D, F, 4, initial_k=41), r"initial_k: got 41; wanted an integer from 1 to d_sae=40"),
        (lambda: ms.TopKSAE(D, F, 4, k_anneal=1.5), r"k_anneal: got 1.5; wanted a share of the run, 0 to 1"),
        (lambda: ms.TopKSAE(D, F, 4, aux_coefficient=-1), r"aux_coefficient: got -1; wanted a number of at least 0"),
        (lambda: ms.ReLUSAE(D, F, p=0), r"p: got 0; wanted a number above 0"),
        (lambda: ms.ReLUSAE(D, F, apply_b_dec_to_input="no"), r"apply_b_dec_to_input: got 'no'; wanted True or False"),
        (lambda: ms.ReLUSAE(D, F, p=1.5), r"p: got 1.5 with decoder_norm='unit'; wanted at most 1"),
        (lambda: ms.ReLUSAE(D, F, p=0.5, decoder_norm="free"), r"p: got 0.5 with decoder_norm='free'; wanted"),
        (lambda: ms.ReLUSAE(D, F, p=0.5, p_updates=0), r"p_updates: got 0 with p=0.5; wanted an integer ≥ 1 and a p"),
        (lambda: ms.ReLUSAE(D, F, p_updates=3), r"p_updates: got 3 with p=1; wanted an integer ≥ 1 and a p below 1"),
        (lambda: ms.ReLUSAE(D, F, p_start="soon"), r"p_start: got 'soon'; wanted a share of the run"),
        (lambda: ms.JumpReLUSAE(D, F, initial_bandwidth=0), r"initial_bandwidth: got 0; wanted a number above 0"),
        (lambda: ms.JumpReLUSAE(D, F, bandwidth=0), r"bandwidth: got 0; wanted a number above 0"),
        (lambda: ms.JumpReLUSAE(D, F, bandwidth_anneal=2), r"bandwidth_anneal: got 2; wanted a share of the run"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
