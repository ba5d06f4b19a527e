import json
import re

import growth
import pytest
import tables
import train_step

from monosem.bench import show

MACHINE = {
    "cpu": "A Processor", "isa": ["avx2"], "cores": 2, "threads": 2, "torch": "2.13.0", "python": "3.11.7",
    "monosem": "0.1.0", "commit": "abc", "load": 0.1, "backend": {"cpu kernels": "avx2", "cpu product": "fp32"},
}  # fmt: skip
SHAPE = {"n": 2048, "d": 512, "f": 16384, "k": 32, "kind": "topk", "name": "laptop", "l1": 1e-4, "lr": 3e-4}
FLOOR = {
    "ms": 100.0,
    "product_ms": 80.0,
    "gathers_ms": 10.0,
    "adam_ms": 10.0,
    "product": "fp32",
    "flops_per_second": 4e11,
    "bytes_per_second": 4e10,
}


def row(name, ms, precision="default", **more):
    return {
        "name": name, "precision": precision, "versions": {"torch": "2.13.0", "lib": "1.2"}, "notes": [], "error": None,
        "ms": ms, "ratio": ms / 150, "to_floor": ms / 100, "peak_bytes": 2 * 10**9, "over_state": 0.1, "mse": 0.01,
        "l0": 32.0,
    } | more  # fmt: skip


@pytest.fixture
def step_result():
    rows = [
        row("monosem", 150.0),
        row("PyTorch eager", 1500.0, notes=["rounds | differently"]),
        row("SAELens", 1200.0),
        row("sparsify bf16", 600.0, "bf16"),
        {"name": "broken", "precision": "default", "versions": {}, "notes": [], "error": "RuntimeError: no | memory"},
    ]
    return {
        "what": "train_step",
        "workload": SHAPE,
        "machine": MACHINE,
        "floor": FLOOR,
        "made": "2026-01-01 00:00",
        "rows": rows,
        "remarks": ["a remark"],
    }


def test_best_in_any_precision_and_in_fp32(step_result):
    assert train_step.best_of_peers(step_result) == [
        "fastest other in any precision: sparsify bf16, 4.00 × monosem",
        "fastest other in fp32: SAELens, 8.00 × monosem",
    ]


def test_markdown_keeps_its_columns_and_shows_errors(step_result):
    document = tables.document(step_result)
    lines = [line for line in document.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(columns) == 1 and len(lines) == 2 + 1 + 5
    assert "broken: RuntimeError: no \\| memory" in document and "* a remark" in document
    assert "* PyTorch eager: rounds | differently" in document and "| 1,500 | 10 |" in document


def test_every_kind_of_result_has_a_table(step_result):
    relu = SHAPE | {"kind": "relu"}
    rows = [
        {"name": "monosem", "error": None, "mse": 0.02, "l0": 30.0, "objective": 0.021},
        {"name": "other", "error": None, "mse": 0.021, "l0": 31.0, "objective": 0.022},
        {"name": "broken", "error": "no"},
    ]
    losses = {"what": "losses", "workload": relu, "steps": 500, "machine": MACHINE, "made": "", "rows": rows}
    assert "+5.00%" in tables.terminal(losses) and "broken: no" in tables.terminal(losses)
    ends = [
        {"name": "monosem train", "tokens_per_second": 60_000.0, "peak_bytes": 10**9, "error": None, "notes": []},
        {"name": "SAELens runner", "tokens_per_second": 6_000.0, "peak_bytes": None, "error": None, "notes": []},
    ]
    end = {"what": "end_to_end", "model": "A", "hook": "h", "n": 4096, "f": 4096, "k": 16, "steps": 9, "rows": ends}
    assert "60,000" in tables.terminal(end | {"machine": MACHINE, "made": ""})
    assert set(tables.TABLES) == {"train_step", "instruction_sets", "operations", "losses", "growth", "end_to_end"}


def test_tables_between_marks_of_a_document_are_replaced(tmp_path, step_result):
    (tmp_path / "train_step.laptop.topk.json").write_text(json.dumps(step_result))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench train_step.laptop.topk -->\nold\n<!-- /bench -->\nafter\n")
    tables.write(tmp_path, readme)
    once = readme.read_text()
    tables.write(tmp_path, readme)
    assert readme.read_text() == once and "old" not in once and "| 1,500 |" in once
    assert once.startswith("before\n") and once.endswith("after\n")
    readme.write_text("<!-- bench nothing -->\n<!-- /bench -->")
    with pytest.raises(ValueError, match="nothing"):
        tables.write(tmp_path, readme)


def test_growth_as_table_and_plot(tmp_path):
    points = [
        {
            "value": f,
            "floor": FLOOR | {"ms": f / 100},
            "state_bytes": f * 10**4,
            "rows": [row("monosem", f / 50.0)] + ([row("PyTorch eager", f / 5.0)] if f < 16384 else []),
        }
        for f in (4096, 8192, 16384)
    ]
    result = {"what": "growth", "axis": "f", "workload": SHAPE, "machine": MACHINE, "made": "", "points": points}
    head, rows = tables.growth_table(result)
    assert rows[-1][0] == "16,384" and rows[-1][-1] == "" and len(head) == len(rows[-1]) == 6
    assert "F=" not in tables.title(result) and "N=2,048" in tables.title(result)
    pytest.importorskip("matplotlib")
    import plots

    svg = plots.growth(result, tmp_path / "growth.svg").read_text()
    assert "floor of this machine" in svg and "PyTorch eager" in svg and "features F" in svg
    assert svg == plots.growth(result, tmp_path / "again.svg").read_text(), "the same bytes every time"


def test_dense_is_left_out_where_its_arrays_are_too_large(monkeypatch):
    asked = []
    fake = {"floor": FLOOR, "state_bytes": 1, "rows": []}
    monkeypatch.setattr(growth.step_comparison, "compare", lambda w, e, **how: asked.append((w.f, len(e))) or fake)
    from monosem.bench.workloads import WORKLOADS

    growth_result = growth.measure(WORKLOADS["laptop"], "f", [4096, 8192], dense_elements=2048 * 4096)
    assert asked == [(4096, 2), (8192, 1)] and [p["value"] for p in growth_result["points"]] == [4096, 8192]


def test_figures_have_three_digits():
    shown = {1234.5: "1,234", 56.78: "56.8", 0.8912: "0.891", 0.0: "0", 1e-9: "1.0e-09"}
    assert {value: show.figure(value) for value in shown} == shown and show.figure(None) == ""
