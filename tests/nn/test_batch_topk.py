"""BatchTopK chooses exactly N·k entries over a batch, however its guess stands, and learns a threshold."""

import pytest
import torch
from nn.definitions import largest

import monosem as ms
from monosem import ops
from monosem.nn.activations import batch_topk
from monosem.nn.activations.batch_topk import KEPT
from monosem.ops import capacity
from monosem.train.step import FastStep

D, F, K = 24, 301, 7


def made(seed=0, **settings):
    return ms.BatchTopKSAE(D, F, K, aux_k=0, seed=seed, **settings)


def batch(n=50, seed=1):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def chosen(sae, x):
    return sae.loss(x).code.to_dense() != 0


@pytest.mark.parametrize("guess", [0.0, 0.1, 0.9, 1.5, 3.0, 50.0])
def test_the_choice_does_not_depend_on_the_guess(guess):
    sae, x = made(), batch()
    sae.batches.guess.fill_(guess)
    code = sae.loss(x).code
    h = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    assert len(code.values) == 50 * K
    assert torch.equal(code.to_dense() != 0, largest(h, 50 * K) > 0)
    again = made()
    assert torch.equal(again.loss(x).code.values, code.values)


def test_equal_entries_are_taken_by_token_then_feature():
    sae = made()
    with torch.no_grad():
        sae.W_enc_rows.zero_()
        sae.b_enc.fill_(1.0)
        sae.b_enc[5] = 2.0
    on = chosen(sae, batch(10))
    expected = torch.zeros(10, F, dtype=torch.bool)
    expected[:, 5] = True  # the largest of every token; then the first of all others: those of token 0
    expected[0, : 60 + 1] = True
    assert on.sum() == 10 * K and torch.equal(on, expected)


def test_all_positive_entries_where_they_are_fewer():
    sae, x = made(), batch()
    with torch.no_grad():
        sae.b_enc.fill_(-3.5)
    h = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    assert 0 < (h > 0).sum() < 50 * K
    assert torch.equal(chosen(sae, x), h > 0)
    with torch.no_grad():
        sae.b_enc.fill_(-100.0)
    assert not chosen(sae, x).any()
    FastStep(sae)(x, 1e-3)
    assert all(p.isfinite().all() for p in sae.parameters())


def test_k_of_all_features():
    sae = ms.BatchTopKSAE(D, 40, 40, aux_k=0, seed=0)
    x = batch()
    assert torch.equal(chosen(sae, x), (x - sae.b_dec) @ sae.W_enc + sae.b_enc > 0)


def test_the_guess_becomes_close_and_steps_need_one_encoding(monkeypatch):
    sae, encodings, bounds = made(), [], []
    step, threshold_encode, topk_encode = FastStep(sae), capacity.threshold_encode, ops.topk_encode

    def counted(*arguments):
        code = threshold_encode(*arguments)
        encodings.append(len(code.values))
        return code

    monkeypatch.setattr(capacity, "threshold_encode", counted)
    monkeypatch.setattr(ops, "topk_encode", lambda *a: bounds.append(1) or topk_encode(*a))
    for seed in range(20):
        step(batch(1000, seed), 1e-4)
    assert len(bounds) == 1 and len(encodings) == 20  # only the first batch had no guess
    assert max(encodings[5:]) < 1.5 * 1000 * K


def test_the_threshold_is_a_running_mean_of_the_smallest_values():
    sae, smallest = made(), []
    for seed in range(120):
        smallest.append(float(sae.loss(batch(8, seed)).code.values.detach().min()))
        if seed == 49:
            assert float(sae.threshold) == pytest.approx(sum(smallest) / 50, rel=1e-5)
    expected = sum(smallest[:100]) / 100
    for value in smallest[100:]:
        expected = KEPT * expected + (1 - KEPT) * value
    assert float(sae.threshold) == pytest.approx(expected, rel=1e-5)
    sae.eval()
    sae.loss(batch(seed=9))
    assert float(sae.threshold) == pytest.approx(expected, rel=1e-5)


def test_inference_takes_a_token_by_itself_and_keeps_k_on_average():
    sae = made()
    step = FastStep(sae)
    for seed in range(30):
        step(batch(200, seed), 1e-4)
    x = batch(500, 99)
    code = sae.encode(x)
    assert float(code.l0()) == pytest.approx(K, rel=0.15)
    h = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    torch.testing.assert_close(code.to_dense(), torch.where(h > sae.threshold, h, 0))


def test_a_loaded_dictionary_does_not_learn_its_threshold_from_what_it_is_asked(tmp_path):
    sae = made()
    sae.loss(batch())
    again = ms.load(ms.save(sae, tmp_path / "d"))
    before = again.threshold.clone()
    again.loss(3 * batch())
    assert torch.equal(again.threshold, before) and before > 0


@pytest.mark.parametrize("saved", ["checkpoint", "dictionary"])
def test_a_run_that_starts_from_another_has_its_threshold(tmp_path, saved):
    data, config = [batch(64, seed) for seed in range(4)], ms.TrainConfig(steps=4, batch_size=64)
    first = ms.Trainer(made(), config, tmp_path / "first", progress=False).fit(data)
    source = tmp_path / "first" if saved == "checkpoint" else ms.save(first.learners[0].sae, tmp_path / "d")
    second = ms.Trainer(made(seed=5), config, start=source, progress=False)
    mine, its = (trainer.learners[0].sae for trainer in (second, first))
    assert its.threshold > 0 and torch.equal(mine.threshold, its.threshold)
    assert torch.equal(mine(data[0]), its(data[0]))


def test_a_run_resumes_to_the_same_bits(tmp_path):
    data = [batch(64, seed) for seed in range(12)]

    def run(folder, n):
        config = ms.TrainConfig(steps=12, batch_size=64, checkpoint_every=10**6, dead_after=256)
        sae = ms.BatchTopKSAE(D, F, K, aux_k=8, seed=0)
        trainer = ms.Trainer(sae, config, folder, progress=False)
        if n < 12:
            with pytest.warns(RuntimeWarning, match="the stream ended after"):
                return trainer.fit(data[:n])
        return trainer.fit(data)

    whole = run(tmp_path / "whole", 12)
    run(tmp_path / "parts", 5)
    parts = run(tmp_path / "parts", 12)
    for a, b in zip(
        whole.learners[0].sae.state_dict().values(), parts.learners[0].sae.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_where_batches_differ_the_guess_leaves_enough_spare_entries(monkeypatch):
    """A product that finds too few entries is made again: seldom, once batches have shown how much they differ."""
    sae, products = made(), []
    above = batch_topk._above
    monkeypatch.setattr(batch_topk, "_above", lambda *args: products.append(1) or above(*args))
    for i in range(60):
        before = len(products)
        code = sae.loss(batch(seed=i) * (1.0, 1.0, 1.0, 0.9)[i % 4]).code
        assert len(code.values) == 50 * K and len(products) - before <= 3
    assert len(products) <= 70 and sae.batches.spare > batch_topk.SPARE
    for _ in range(300):
        sae.loss(batch())
    assert sae.batches.spare == batch_topk.SPARE, "alike batches need few"
