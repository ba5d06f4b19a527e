"""p-annealing with a rescaled coefficient: as large a penalty on both sides of a change of p."""

import pytest
import torch

import monosem as ms
from monosem.nn import L1

D, F = 12, 40


def made(**more):
    return ms.ReLUSAE(D, F, 0.02, p=0.2, p_start=0.2, p_updates=4, seed=0, **more)


def batch(seed, n=64):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def at(sae, progress):
    sae.progress = progress
    return sae.composition.penalty


def power_sum(sae, x, p):
    """Σ ((f + s)^p − s^p) by its definition, over all features."""
    f = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu().double()
    return float(((f + 1e-4).pow(p) - 1e-4**p)[f > 0].sum().detach())


def test_p_falls_by_equal_steps():
    sae = made()
    ps = [
        1 if isinstance(at(sae, p), L1) else round(at(sae, p).p, 9) for p in (0, 0.19, 0.2, 0.39, 0.41, 0.61, 0.81, 1)
    ]
    assert ps == [1, 1, 0.8, 0.8, 0.6, 0.4, 0.2, 0.2]


@pytest.mark.parametrize("call", ["loss", "gradients"])
def test_the_penalty_of_a_batch_is_as_large_on_both_sides_of_a_change(call):
    sae, x = made(), batch(1)
    sae.progress = 0.0
    getattr(sae, call)(x)
    assert sae.penalty_scales.scales.tolist() == [1, 0, 0, 0, 0]
    scale = 1.0
    for progress, before, p in ((0.3, 1.0, 0.8), (0.5, 0.8, 0.6), (0.9, 0.6, 0.2)):  # the last leaves one out
        sae.progress = progress
        out = getattr(sae, call)(x)
        scale *= power_sum(sae, x, before) / power_sum(sae, x, p)
        assert sae.composition.penalty.coefficient == pytest.approx(0.02 * scale, rel=1e-6)
        penalty = sae.composition.penalty.coefficient * float(out.sparsity.detach())
        assert penalty == pytest.approx(0.02 * power_sum(sae, x, 1.0) / len(x), rel=1e-5)
        getattr(sae, call)(batch(2))
        assert sae.composition.penalty.coefficient == pytest.approx(0.02 * scale, rel=1e-6)  # by the first batch alone
    assert sae.penalty_scales.scales[3] == 0


def test_a_run_that_starts_again_measures_again():
    sae = made()
    sae.loss(batch(1))  # outside a run: p has its last value
    assert sae.penalty_scales.scales[-1] > 0
    sae.progress = 0.0
    sae.loss(batch(1))
    assert sae.penalty_scales.scales.tolist() == [1, 0, 0, 0, 0] and sae.composition.penalty == L1(0.02)


def test_evaluation_measures_nothing_and_a_batch_without_entries_changes_nothing():
    sae = made().eval()
    sae.loss(batch(1))
    assert sae.composition.penalty.coefficient == 0.02
    sae.train()
    with torch.no_grad():
        sae.b_enc.fill_(-100.0)
    sae.loss(batch(1))
    assert sae.composition.penalty.coefficient == 0.02


def test_the_ratio_is_that_of_the_first_1024_tokens():
    sae, x = made(), batch(3, 1500)
    sae.gradients(x)
    head = x[:1024]
    assert sae.composition.penalty.coefficient == pytest.approx(
        0.02 * power_sum(sae, head, 1.0) / power_sum(sae, head, 0.2), rel=1e-6
    )


def test_files_keep_the_factors(tmp_path):
    sae = made()
    sae.loss(batch(1))
    again = ms.load(ms.save(sae, tmp_path / "d"))
    assert torch.equal(again.penalty_scales.scales, sae.penalty_scales.scales)
    assert again.composition == sae.composition and again.cfg == sae.cfg
    assert isinstance(sae.state_dict()._metadata["penalty_scales"]["version"], int)  # PyTorch's own
