import json

import pytest

from monosem.bench import show, step_comparison
from monosem.bench.rounds import DENSE, MONOSEM, Entrant
from monosem.bench.workloads import WORKLOADS
from monosem.cli.main import main


@pytest.fixture(scope="module", params=["topk", "relu"])
def result(request):
    entrants = [MONOSEM, DENSE, Entrant("absent", DENSE.script, missing="its environment is not set up")]
    comparison = step_comparison.compare(WORKLOADS["tiny"].with_(kind=request.param), entrants, rounds=3, budget=20)
    return json.loads(json.dumps(comparison))  # as it is read again from its file


def test_the_same_steps_from_the_same_weights_end_at_the_same_error(result):
    ours, dense, absent = result["rows"]
    assert ours["error"] is None and dense["error"] is None and absent["error"] == "its environment is not set up"
    # Both in fp32 on the same batches; the order of summation differs.
    assert ours["mse"] == pytest.approx(dense["mse"], rel=1e-4) and ours["l0"] == pytest.approx(dense["l0"], rel=1e-3)
    assert ours["own_loss"] == pytest.approx(dense["own_loss"], rel=1e-4)


def test_fields_of_a_row(result):
    ours, dense, _ = result["rows"]
    assert ours["ratio"] == 1.0 and dense["ratio"] > 0
    for row in (ours, dense):
        assert row["rounds"] == 3 and row["steps"] == 6 and len(row["times_ms"]) == 3
        assert row["fastest_ms"] <= row["quartiles_ms"][0] <= row["ms"] <= row["quartiles_ms"][1]
        assert row["to_floor"] == pytest.approx(row["ms"] / result["floor"]["ms"])
        assert row["peak_bytes"] > 0 and row["over_state"] == pytest.approx(
            row["peak_bytes"] / result["state_bytes"] - 1
        )
    assert {"cpu", "threads", "torch", "commit", "backend", "isa", "load"} <= result["machine"].keys()
    assert result["workload"]["name"] == "tiny" and result["machine"]["backend"]["cpu kernels"]


def test_the_table_has_one_line_per_entrant(result):
    head, rows = show.step_table(result)
    assert all(len(row) == len(head) for row in rows)
    floors = ["floor"] * (2 if result["floor"]["bf16_ms"] else 1)  # with PyTorch's bf16, where the processor has it
    assert [row[0].split()[0] for row in rows] == [*floors, "monosem", "PyTorch", "absent:"]
    assert head[-1] == "L0", "so that nobody compares different sparsity"
    assert "tiny" in show.heading(result) and result["machine"]["cpu"] in show.heading(result)


def test_the_command_prints_both_tables_and_writes_json(tmp_path, capsys):
    out = tmp_path / "bench.json"
    options = ["--workload", "tiny", "--d-sae", "256", "--rounds", "3", "--no-dense", "--json", str(out)]
    assert main(["bench", *options]) == 0
    printed = capsys.readouterr().out
    assert "floor of this machine" in printed and "topk_encode" in printed and "F=256" in printed
    stored = json.loads(out.read_text())
    assert stored["train_step"]["workload"]["f"] == 256 and len(stored["operations"]["rows"]) == 11


def test_the_command_refuses_bad_arguments(capsys):
    assert main(["bench", "--workload", "tiny", "--rounds", "1"]) == 2
    assert main(["bench", "--workload", "tiny", "--d-sae", "4", "--k", "8"]) == 2
    output = capsys.readouterr().err
    assert "--rounds: got 1" in output and "k: got 8" in output
