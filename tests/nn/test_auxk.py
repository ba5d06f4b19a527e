"""AuxK: how many features it uses, and products with all dead features in place of gathered rows."""

import json
from dataclasses import asdict

import pytest
import torch
from nn.multiplied import multiplied

import monosem as ms
from monosem.nn import auxk
from monosem.nn.config import TopKConfig, from_dict
from monosem.ops import gpu
from monosem.ops.capacity import DeadFeatureCapacity

N, D, F, SIZE = 40, 16, 400, 8


def test_auxk_uses_at_most_512_features_by_default():
    assert [TopKConfig(d, 10_000).aux_k for d in (1, 768, 1024, 4096)] == [0, 384, 512, 512]
    assert ms.TopKSAE(1100, 64).cfg.aux_k == 512 and ms.TopKSAE(1100, 64, aux_k=550).cfg.aux_k == 550
    old = {"d_in": 4096, "d_sae": 10_000, "k": 32, "aux_k": None, "aux_coefficient": 1 / 32}
    assert from_dict(TopKConfig, old).aux_k is None  # what it had: half of the width
    config = TopKConfig(4096, 10_000)
    assert from_dict(TopKConfig, json.loads(json.dumps(asdict(config)))) == config
    sae = ms.TopKSAE(1100, 700, k=4, aux_k=None, seed=1)
    assert sae.composition.revival.size(690) == 550
    for wrong in (-1, True, 1.5, "some"):
        with pytest.raises(ValueError, match=r'aux_k: got .*; wanted an integer ≥ 0, "auto"'):
            TopKConfig(16, 64, aux_k=wrong)


def test_an_older_file_keeps_its_aux_k(tmp_path):
    ms.save(ms.TopKSAE(1100, 64, k=4, aux_k=None, seed=1), tmp_path)
    assert ms.load(tmp_path).cfg.aux_k is None


@pytest.mark.parametrize(("d_in", "says"), [(1100, True), (16, False)])
def test_a_run_begun_with_the_older_default_resumes_with_it(d_in, says, tmp_path, capsys):
    def fit(steps: int, **options) -> ms.Trainer:
        batches = [torch.randn(32, d_in, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
        config = ms.TrainConfig(batch_size=32, steps=steps, dead_after=32)
        sae = ms.TopKSAE(d_in, 64, k=2, seed=1, **options)
        return ms.Trainer(sae, config, tmp_path, progress=False).fit(batches)

    fit(2, aux_k=None)
    capsys.readouterr()
    again = fit(4)
    assert again.learners[0].sae.cfg.aux_k is None and again.steps_done == 4
    assert ("aux_k: this run goes on with d_in // 2 = 550" in capsys.readouterr().err) == says
    with pytest.raises(ValueError, match=r"sae\.aux_k is None there and 3 here"):
        fit(4, aux_k=3)


def test_products_are_used_while_they_are_cheaper():
    for device, most in (("meta", 10_000), ("cpu", 2600)):  # meta: a device of which only the name is known, as a GPU
        capacity = DeadFeatureCapacity(1_000_000, used=True, device=device)
        choices = [capacity.products_are_cheaper(rows, 512) for rows in (512, most, most + 1000, 100_000)]
        assert choices == [True, True, False, False]


def gradients_on_gpu(dense: bool, n_dead: int, capacity: int, monkeypatch, block_bytes: int = auxk.BYTES):
    """The autoencoder and its gradients, scheduled as on a GPU."""
    sae = ms.TopKSAE(D, F, 5, aux_k=SIZE, seed=1)
    with torch.no_grad():
        sae.b_enc += 0.01 * torch.randn(F, generator=torch.Generator().manual_seed(5))
    sae.capacity.stats_history.fill_(float(capacity))
    order = torch.randperm(F, generator=torch.Generator().manual_seed(2))
    dead = torch.zeros(F, dtype=torch.bool).index_fill_(0, order[:n_dead], True)
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    taken = []
    monkeypatch.setattr(gpu, "asynchronous", lambda t: True)
    monkeypatch.setattr(sae.capacity, "products_are_cheaper", lambda *_: dense)
    monkeypatch.setattr(auxk, "BYTES", block_bytes)
    products = auxk.dense
    monkeypatch.setattr(auxk, "dense", lambda *a: taken.append(1) or products(*a))
    gradients = sae.gradients(x, dead=dead)
    monkeypatch.undo()
    assert len(taken) == dense
    return sae, x, dead, gradients


# Fewer dead than a token may use, as many as the capacity, fewer than that, none; tokens in one block and in many.
@pytest.mark.parametrize(("n_dead", "capacity"), [(6, 5), (128, 128), (120, 128), (0, 64)])
@pytest.mark.parametrize("block_bytes", [auxk.BYTES, 7 * 128 * 4])
def test_products_give_the_gradients_of_the_definition(n_dead, capacity, block_bytes, monkeypatch):
    sae, x, dead, mine = gradients_on_gpu(True, n_dead, capacity, monkeypatch, block_bytes)
    exact = ms.TopKSAE(D, F, 5, aux_k=SIZE, seed=1).double()
    exact.load_state_dict(sae.state_dict())
    expected = exact.loss(x.double(), dead=dead)
    expected.loss.backward()
    for name in ("loss", "mse", "aux", "sparsity"):
        torch.testing.assert_close(getattr(mine, name).double(), getattr(expected, name), rtol=1e-5, atol=1e-7)
    assert torch.equal(mine.fired, expected.code.fired()) and float(mine.l0) == float(expected.code.l0())
    for a, p in zip(multiplied(mine), exact.parameters(), strict=True):
        torch.testing.assert_close(a.double(), p.grad, rtol=1e-4, atol=1e-7)


def test_a_step_with_products_equals_a_step_with_gathered_rows(monkeypatch):
    from monosem.train.step import FastStep

    steps = []
    for dense in (True, False):
        sae, x, dead, gradients = gradients_on_gpu(dense, 100, 128, monkeypatch)
        monkeypatch.setattr(sae, "gradients", lambda *a, g=gradients: g)
        for clip in (None, 0.01):
            FastStep(sae)(x, 1e-3, clip=clip, dead=dead)
        steps.append([p.detach() for p in sae.parameters()])
    for a, b in zip(*steps, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("dense", [False, True])
def test_every_third_token_has_the_gradients_of_the_definition(dense, monkeypatch):
    """Gathered and by products: the decoder's part stands beside a batch of three times as many tokens."""
    sae = ms.TopKSAE(D, F, 5, aux_k=SIZE, aux_every=3, seed=1)
    dead = torch.zeros(F, dtype=torch.bool).index_fill_(0, torch.arange(0, F, 4), True)
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(sae.capacity, "products_are_cheaper", lambda *_: dense)
    mine = sae.gradients(x, dead=dead)
    exact = ms.TopKSAE(D, F, 5, aux_k=SIZE, aux_every=3, seed=1).double()
    expected = exact.loss(x.double(), dead=dead)
    expected.loss.backward()
    torch.testing.assert_close(mine.aux.double(), expected.aux, rtol=1e-5, atol=1e-7)
    for a, p in zip(multiplied(mine), exact.parameters(), strict=True):
        torch.testing.assert_close(a.double(), p.grad, rtol=1e-4, atol=1e-7)


def test_aux_every_is_a_positive_integer():
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match=r"aux_every: got .*; wanted a positive integer"):
            TopKConfig(16, 64, aux_every=wrong)
