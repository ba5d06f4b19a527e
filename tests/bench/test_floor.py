import pytest

from monosem.bench import floor, operations
from monosem.bench.floor import Rates
from monosem.bench.workloads import WORKLOADS, Workload

RATES = Rates(flops_per_second=1e9, bytes_per_second=1e8, product="fp32")


def test_the_floor_of_a_step_is_product_plus_bytes():
    w = Workload(n=100, d=10, f=1000, k=5)
    best = floor.step(w, RATES)
    assert best["product_ms"] == pytest.approx(2 * 100 * 10 * 1000 / 1e9 * 1e3)
    assert best["gathers_ms"] == pytest.approx(3 * 100 * 5 * 10 * 4 / 1e8 * 1e3)
    assert best["adam_ms"] == pytest.approx(2 * 1000 * 10 * 24 / 1e8 * 1e3)
    assert best["ms"] == pytest.approx(best["product_ms"] + best["gathers_ms"] + best["adam_ms"])


def test_an_operation_takes_the_longer_of_products_and_bytes():
    assert RATES.seconds(flops=3e9, moved=1e8) == 3.0
    assert RATES.seconds(flops=1e9, moved=5e8) == 5.0


def test_operations_count_what_no_implementation_can_avoid():
    w = Workload(n=8, d=6, f=32, k=3)
    by_name = {op.name: op for op in operations.operations(w)}
    e, matrix, batch = 8 * 3, 32 * 6 * 4, 8 * 6 * 4
    assert by_name["topk_encode"].flops == w.product_flops
    assert by_name["topk_encode"].moved == batch + matrix + e * 8  # x and W once, a value and an index per entry
    assert by_name["sparse_decode"].moved == e * 6 * 4 + batch + e * 8
    assert by_name["row_adam_"].moved == 7 * matrix  # w, m, v read and written, the gradient read
    assert by_name["row_grad"].moved == e * 6 * 4 + matrix + e * 16
    # The gathers of the three operations of a step that read rows are those of the step's own floor.
    rows = e * 6 * 4
    assert w.gather_bytes == 3 * rows


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_every_operation_is_timed_and_set_against_its_floor(kind):
    result = operations.compare(WORKLOADS["tiny"].with_(kind=kind), rounds=2, rates=RATES)
    names = [row["name"] for row in result["rows"]]
    assert names[0] == ("topk_encode" if kind == "topk" else "threshold_encode") and len(names) == len(set(names)) == 11
    for row in result["rows"]:
        assert row["ms"] >= row["fastest_ms"] > 0
        assert row["to_floor"] == pytest.approx(row["ms"] / row["floor_ms"])
        assert row["floor_ms"] == pytest.approx(1e3 * max(row["flops"] / 1e9, row["bytes"] / 1e8))


def test_measured_rates_are_physically_plausible():
    rates = floor.measure(64)
    assert 1e8 < rates.flops_per_second < 1e15 and 1e8 < rates.bytes_per_second < 1e14
    assert rates.flops_per_second == rates.measured[rates.product]
