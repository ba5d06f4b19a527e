"""Bad batches: each error names the batch, and no weight has moved."""

import pytest
import torch

import monosem as ms

D = 16


def poisoned(batches, number, value):
    out = [b.clone() for b in batches]
    out[number][5, 7] = value
    return out


@pytest.mark.parametrize("value, what", [(float("nan"), "1 NaN and 0 Inf"), (float("-inf"), "0 NaN and 1 Inf")])
@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_nan_or_inf_names_the_batch_and_changes_no_weight(make, config, source, weights, kind, value, what):
    good = list(source(batches=12))
    sae = make(kind)
    trainer = ms.Trainer(sae, config(), progress=False)
    with pytest.raises(ValueError, match=f"batch 6: got {what}, the first at row 5, column 7"):
        trainer.fit(poisoned(good, 6, value))
    reference = ms.Trainer(make(kind), config(), progress=False)
    reference.learners[0].sae.initialize(good[0])
    for x in good[:6]:
        reference.step(x)
    assert trainer.steps_done == 6
    assert torch.equal(weights(sae), weights(reference.learners[0].sae))


def test_step_checks_the_batch_before_any_autoencoder_changes(make, weights, config):
    saes = [make("topk"), make("relu")]
    before = [weights(s) for s in saes]
    trainer = ms.Trainer(saes, config())
    with pytest.raises(ValueError, match="batch 0: got 1 NaN"):
        trainer.step(poisoned([torch.randn(8, D)], 0, float("nan"))[0])
    assert all(torch.equal(a, weights(s)) for a, s in zip(before, saes, strict=True)) and trainer.steps_done == 0


def test_large_finite_numbers_are_not_mistaken_for_infinity(make, config):
    x = torch.full((8, D), 3e37)
    assert not torch.isfinite(x.sum())
    with pytest.raises(ValueError, match="diverged"):  # the loss overflows, and that is what is said
        ms.Trainer(make("topk"), config(log_every=1, init_bias=False), progress=False).fit([x])


@pytest.mark.parametrize(
    "x, error, words",
    [
        (torch.randn(4, D + 1), ValueError, r"batch 0: got shape \[4, 17\]; wanted \[N, d_in=16\]"),
        (torch.randn(2, 4, D), ValueError, r"got shape \[2, 4, 16\].*x\.flatten\(0, -2\)"),
        (torch.randn(D), ValueError, r"got shape \[16\]"),
        (torch.randn(0, D), ValueError, "got no row"),
        (torch.ones(4, D, dtype=torch.int64), TypeError, "batch 0: got torch.int64; wanted torch.float32"),
        (torch.ones(4, D, dtype=torch.float64), TypeError, "got torch.float64"),
        (torch.ones(4, D, device="meta"), ValueError, "got device meta; wanted cpu"),
        ([[0.0] * D], TypeError, "got list; wanted a tensor"),
    ],
)
def test_wrong_batches_are_refused(make, weights, config, x, error, words):
    sae = make("topk")
    before = weights(sae)
    with pytest.raises(error, match=words):
        ms.Trainer(sae, config()).step(x)
    with pytest.raises(error, match=words):
        ms.Trainer(sae, config(), progress=False).fit([x])
    assert torch.equal(before, weights(sae))


def test_half_precision_batches_are_widened_exactly(make, config, weights, source):
    x = [b.bfloat16() for b in source(batches=12)]
    half, full = make("topk"), make("topk")
    ms.Trainer(half, config(), progress=False).fit(x)
    ms.Trainer(full, config(), progress=False).fit([b.float() for b in x])
    assert torch.equal(weights(half), weights(full))


def test_empty_streams_are_refused(make, config):
    for empty in ([], iter(()), (x for x in ())):
        with pytest.raises(ValueError, match="activations: got an empty stream"):
            ms.Trainer(make("topk"), config(), progress=False).fit(empty)
    with pytest.raises(ValueError, match=r"activations: got a tensor \[0, 16\]"):
        ms.Trainer(make("topk"), config(), progress=False).fit(torch.empty(0, D))
    with pytest.raises(TypeError, match="activations: got int"):
        ms.Trainer(make("topk"), config(), progress=False).fit(3)


def test_a_source_of_another_width_is_refused_before_it_is_read(make, config, source):
    wide = ms.TopKSAE(D + 4, 32, k=4)
    with pytest.raises(ValueError, match="activations: got width 16; wanted d_in=20"):
        ms.Trainer(wide, config(), progress=False).fit(source())
