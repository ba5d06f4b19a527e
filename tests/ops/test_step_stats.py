"""The counts of a step: of every product, of what it fell back from, and of tokens that were encoded twice."""

import pytest
import torch
from ops.cases import encoder, here

from monosem import ops
from monosem.ops import backend, step_stats
from monosem.ops.step_stats import EncoderStats, StepStats, phase, recording

N, D, F, K = 200, 32, 700, 5


@pytest.fixture(autouse=True)
def native(native_only):
    pass


@pytest.fixture
def by(monkeypatch):
    """by("int8", x, w, b): the counts of TopK and of a threshold with this product."""

    def count(product, x, w, b, k=K) -> tuple[EncoderStats, EncoderStats]:
        monkeypatch.setattr(backend, "cpu_product", lambda: product)
        with recording() as topk:
            ops.topk_encode(x, w, b, k)
        with recording() as relu:
            ops.threshold_encode(x, w, b)
        return topk.encoder, relu.encoder

    return count


@pytest.mark.parametrize("product", ["fp32", "bf16", "int16", "int8", "sparse"])
def test_tokens_are_counted_by_product(by, product):
    for stats in by(product, *encoder(N, D, F)):
        assert stats.tokens == {product: N} and stats.fallbacks == {} and stats.redone == 0


@pytest.mark.parametrize("product", ["bf16", "int16", "int8", "sparse"])
def test_candidates_are_at_least_the_answer_and_a_more_precise_product_leaves_fewer(by, product):
    x, w, b = encoder(N, D, F)
    topk, relu = by(product, x, w, b)
    assert N * K <= topk.rescored <= topk.candidates <= N * F
    active = len(ops.threshold_encode(x, w, b).values)
    assert active <= relu.rescored == relu.candidates < N * F
    if product not in ("int16", "sparse"):
        precise = by("int16", x, w, b)
        assert precise[0].candidates < topk.candidates and precise[1].candidates < relu.candidates
    assert topk.metrics()["rescored"] == topk.rescored / N


def test_exact_values_have_no_candidates(by):
    for stats in by("fp32", *encoder(N, D, F)):
        assert stats.candidates == stats.rescored == 0 and "candidates" not in stats.metrics()


@pytest.mark.parametrize("product", ["bf16", "int16", "int8", "sparse"])
def test_the_same_counts_for_any_number_of_threads(by, product):
    x, w, b = encoder(501, 70, 3000)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = by(product, x, w, b)
        torch.set_num_threads(3)
        assert by(product, x, w, b) == one
    finally:
        torch.set_num_threads(before)


UNSUITED = {
    "overflow": lambda x, w: x[7].fill_(torch.inf),
    "short_rows": lambda x, w: w.mul_(1e-16),
    "short_tokens": lambda x, w: x[:120].zero_(),
}


@pytest.mark.parametrize("product", ["bf16", "int16", "int8", "sparse"])
@pytest.mark.parametrize("reason", UNSUITED)
def test_a_batch_that_does_not_suit_the_product_falls_back_and_is_counted(by, product, reason):
    x, w, b = encoder(N, D, F)
    UNSUITED[reason](x, w)
    for stats in by(product, x, w, b):
        assert stats.fallbacks == {reason: N} and stats.tokens == {"fp32": N}
        assert stats.metrics() == {"product_fp32": 1.0, f"fallback_{reason}": 1.0, "rows_redone": 0.0}


def test_wide_error_bounds_fall_back_to_int16(by, monkeypatch):
    monkeypatch.setattr("monosem.ops.selection.cpu_integers.WIDE", 1e-3)
    for stats in by("int8", *encoder(N, D, F)):
        assert stats.fallbacks == {"wide_bound": N} and stats.tokens == {"int16": N}


def test_tokens_whose_candidates_do_not_fit_are_redone_and_counted(by):
    x, w, b = encoder(150, D, 3000)
    w[1000:] = w[0] * (1 + 1e-4 * torch.randn(2000, 1))  # closer than 8 bits can tell
    x[:70] = w[0] * 5
    stats, _ = by("int8", x, w, b.zero_(), k=6)
    assert 70 <= stats.redone < 80  # once, though most of them are too close for int16 as well
    assert stats.tokens["int8"] == 150 - stats.redone and sum(stats.tokens.values()) == 150
    stats, _ = by("int16", torch.ones(7, 3), torch.full((9000, 3), 0.1), torch.zeros(9000), k=6)
    assert stats.redone == 7 and stats.tokens == {"int16": 0, "fp32": 7}
    assert stats.metrics()["rows_redone"] == 1


def test_auxk_has_its_own_counts():
    x, w, b = encoder(N, D, F)
    with recording() as stats:
        phase("encode")
        ops.topk_encode(x, w, b, K)
        phase("aux")
        ops.topk_encode(x[:50], w[:40], b[:40], 2)
    assert sum(stats.encoder.tokens.values()) == N and sum(stats.aux_encoder.tokens.values()) == 50


def test_nothing_is_counted_outside_of_a_recording_and_an_inner_one_is_the_outer():
    x, w, b = encoder(20, D, F)
    ops.topk_encode(x, w, b, K)
    phase("encode")
    assert step_stats.current() is None
    with recording() as outer, recording() as inner:
        ops.topk_encode(x, w, b, K)
    assert inner is outer and sum(outer.encoder.tokens.values()) == 20
    with pytest.raises(ZeroDivisionError), recording():
        raise ZeroDivisionError
    assert step_stats.current() is None


def test_counts_of_a_device_stay_tensors():
    count = here(torch.tensor(3, dtype=torch.int32))
    with recording() as stats:
        step_stats.encoded("bf16", 10, count, count)
        step_stats.redone(count)
        step_stats.redone(count)
        step_stats.capacity(count, 0)
    row = stats.metrics()
    assert all(isinstance(row[name], torch.Tensor) for name in ("rows_redone", "candidates", "capacity_used"))
    assert row["rows_redone"] == pytest.approx(0.6) and row["capacity_used"] == 3
    assert StepStats().metrics() == {}
