"""Rank correlation, balanced accuracy and medians against hand-made values and SciPy."""

import numpy as np
import pytest

from monosem.analysis.evidence.statistics import auroc, balanced_accuracy, mean_interval, median_interval, spearman


def test_ranks_of_ties_are_averaged():
    # Ranks 1, 2.5, 2.5, 4 and 1.5, 1.5, 3, 4: products 3.75, squares 4.5 and 4.5.
    assert spearman([0, 5, 5, 9], [1, 1, 2, 3]) == pytest.approx(3.75 / 4.5)
    assert spearman([1, 2, 3], [10, 200, 3000]) == pytest.approx(1)
    assert spearman([3, 2, 1], [1, 2, 3]) == pytest.approx(-1)


def test_spearman_agrees_with_scipy_on_many_ties():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    for levels in (2, 4, 50):
        a, b = random.integers(0, levels, 540), random.integers(0, levels, 540)
        b = np.where(random.random(540) < 0.4, a, b)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_a_constant_scores_zero():
    assert spearman([0.1] * 7, range(7)) == 0.0
    assert spearman(range(7), [3.3] * 7) == 0.0
    assert spearman([1], [1]) == 0.0


def test_integer_weights_are_repetitions():
    random = np.random.default_rng(1)
    a, b, times = random.integers(0, 5, 40), random.integers(0, 5, 40), random.integers(0, 4, 40)
    assert spearman(a, b, times) == pytest.approx(spearman(a.repeat(times), b.repeat(times)), abs=1e-12)


def test_the_scale_of_weights_does_not_matter():
    random = np.random.default_rng(2)
    a, b, w = random.random(30), random.random(30), random.random(30)
    assert spearman(a, b, w) == pytest.approx(spearman(a, b, 1e-6 * w), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1, 2, 3]), "one length"),
        (([1, float("nan")], [1, 2]), "NaN"),
        (([1, 2], [1, 2], [1, -1]), "below 0"),
    ],
)
def test_bad_data_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        spearman(*arguments)


def test_balanced_accuracy_averages_both_classes():
    assert balanced_accuracy([1, 1, 1, 0], [1, 1, 0, 0]) == pytest.approx(0.75)
    assert balanced_accuracy([1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]) == pytest.approx(0.5)
    assert balanced_accuracy([1, 0], [1, 1]) is None


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order():
    random = np.random.default_rng(0)
    for levels in (2, 5, 1000):
        score, true = random.integers(0, levels, 60) / levels, random.random(60) < 0.4
        pairs = [(a > b) + 0.5 * (a == b) for a in score[true] for b in score[~true]]
        assert auroc(score, true) == pytest.approx(np.mean(pairs))
    chosen = random.random(60) < 0.5
    assert auroc(chosen, true) == pytest.approx(balanced_accuracy(chosen, true))
    assert auroc([0.1, 0.2], [True, True]) is None
    with pytest.raises(ValueError, match="score, true"):
        auroc([0.1], [True, False])


def test_median_intervals_come_from_the_bootstrap():
    assert median_interval([]) is None
    one = median_interval([2.0])
    assert (one.median, one.low, one.high, one.n) == (2.0, 2.0, 2.0, 1)
    large = median_interval(np.random.default_rng(0).normal(5, 1, 400))
    # The standard error of a median is 1.2533 σ/√n = 0.063; the interval spans about ±1.96 of it.
    assert large.low < 5.0 < large.high and 0.12 < large.high - large.low < 0.40
    assert median_interval([1, 2, 3, 9]) == median_interval([1, 2, 3, 9])


def test_the_interval_of_a_mean_is_over_groups():
    """Tokens of a context that are all alike count once: more of them do not narrow the interval."""
    assert mean_interval([], []) is None and mean_interval([0.0, 0.0], [0, 0]) is None
    one = mean_interval([6.0, 0.0], [3, 0])
    assert (one.mean, one.low, one.high, one.n) == (2.0, 2.0, 2.0, 1)
    values = np.random.default_rng(0).normal(5, 1, 400)
    few, many = (mean_interval(values * size, np.full(400, size)) for size in (1, 50))
    # The standard error is σ/√400 = 0.05; the interval spans about ±1.96 of it.
    assert few == many and few.low < 5.0 < few.high and 0.15 < few.high - few.low < 0.25
    uneven = mean_interval([10.0, 1.0], [10, 1])
    assert uneven.mean == 1.0 == uneven.low == uneven.high
    with pytest.raises(ValueError, match=r"totals, counts: got shapes \(1,\) and \(2,\); wanted one length"):
        mean_interval([1.0], [1, 2])
