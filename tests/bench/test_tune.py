"""Tuning keeps choices that are correct and faster; the clock is simulated."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from monosem.bench import tune
from monosem.bench.gpu_clock import CaptureFailed, Timing
from monosem.bench.workloads import WORKLOADS
from monosem.cli.main import main
from monosem.kernels import launch
from monosem.ops import tune_table


class Op:
    name, waits = "decode_loss", False

    def __init__(self, table, times):
        self.table, self.times = table, times

    def call(self):
        pass

    def ms(self):
        return self.times[json.dumps(self.table["k"].get("64"))]


class Clock:
    device = torch.device("cpu")

    def __init__(self, op=None):
        self.op = op

    def time(self, call, graph=True):
        ms = self.op.ms() if self.op else 1.0
        if isinstance(ms, Exception):
            raise ms
        return Timing(ms, ms, ms, 5, "graph")


@pytest.mark.parametrize(
    ("ms", "right", "best"),
    [
        ((1.0, 0.9, 0.8), (True, True), {"J": 2}),
        ((1.0, 0.9, 0.8), (True, False), {"J": 1}),  # the faster one computes something else
        ((1.0, 0.99, 1.2), (True, True), None),  # not worth an entry
        ((1.0, RuntimeError("out of resource: shared memory"), 0.5), (True, True), {"J": 2}),
    ],
)
def test_the_fastest_right_choice_that_beats_the_rule(ms, right, best):
    choices = [{"J": 1}, {"J": 2}]
    table = {"k": {"64": {"J": 8}}}  # measured before: neither the rule nor lost
    times = {json.dumps(c): t for c, t in zip((None, *choices), ms, strict=True)}
    expected = {
        json.dumps(c): torch.tensor([1.0 if r else 2.0]) for c, r in zip((None, *choices), (True, *right), strict=True)
    }
    op, tried = Op(table, times), []
    check = lambda: [expected[json.dumps(table["k"].get("64"))]]
    tuned = tune._best(op, check, table, "k", 64, choices, Clock(op), tried, lambda _: None)
    assert tuned == best and table == {"k": {"64": {"J": 8}}}
    assert len(tried) == 3 and tried[0]["choice"] == "rule"
    assert ["error" in row for row in tried[1:]] == [
        isinstance(m, Exception) or not r for m, r in zip(ms[1:], right, strict=True)
    ]


def test_every_operation_is_tuned(monkeypatch):
    monkeypatch.setattr(tune.gpu, "available", lambda name: "")
    tuned = tune.tune(WORKLOADS["tiny"], Clock(), "Made Up", "sm_90")
    assert tuned["kernels"] == {}  # all take a millisecond
    assert {row["kernel"] for row in tuned["tried"]} == {
        f"cuda_{name}" for names in tune.CUDA.values() for name in names
    }
    assert not any("error" in row for row in tuned["tried"])


def test_a_failed_capture_stops_tuning_and_keeps_earlier_entries(monkeypatch, tmp_path, capsys):
    """A failed capture is not the error of a choice: everything after it would fail too."""

    class Breaking(Clock):
        timed = 0

        def time(self, call, graph=True):
            self.timed += 1
            if self.timed == 4:
                raise CaptureFailed("not captured as a graph (operation not permitted)")
            assert self.timed < 4
            ms = 2.0 - 0.5 * self.timed
            return Timing(ms, ms, ms, 5, "graph")

    monkeypatch.setattr(tune.gpu, "available", lambda name: "" if name == "cuda" else "not here")
    tuned = tune.tune(WORKLOADS["tiny"], Breaking(), "Made Up", "sm_90")
    assert tuned["stopped"] == "not captured as a graph (operation not permitted)" and len(tuned["tried"]) == 3
    assert not any("error" in row for row in tuned["tried"])
    monkeypatch.setattr(launch, "TUNED", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda *_: type("P", (), {"name": "X", "major": 9, "minor": 0})
    )
    monkeypatch.setattr("monosem.bench.gpu_clock.Clock", lambda device: Breaking())
    assert main(["bench", "--tune", "--workload", "tiny"]) == 1
    assert "not captured" in capsys.readouterr().err


def test_a_small_case_restores_its_data():
    checks = tune.small_case(WORKLOADS["tiny"], torch.device("cpu"))
    for name, check in checks.items():
        assert tune.same(check(), check()), name
    first, again = checks["row_grad_adam_"](), checks["row_grad_adam_"]()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not tune.same([first[0] + 1e-3], [first[0]])


def test_kernels_read_the_tuned_table(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "TUNED", tmp_path / "tuned")
    tune_table.write({"kernels": {"decode_loss": {"64": {"J": 2}}}}, "Made Up 9000", {"torch": "2"})
    tune_table.write(
        {"kernels": {"decode_loss": {"96": {"J": 4}}, "cuda_row_grad": {"64": {"threads": 128}}}}, "Made Up 9000", {}
    )
    table = launch.table("Made Up 9000")
    assert table == {"decode_loss": {"64": {"J": 2}, "96": {"J": 4}}, "cuda_row_grad": {"64": {"threads": 128}}}
    assert launch.block("decode_loss", 64, "Made Up 9000", "sm_90")["J"] == 2
    launch.table.cache_clear()


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--tune"]) != 0
    assert "--tune" in capsys.readouterr().err


def test_monosem_tuned_names_the_folder_of_the_table(monkeypatch, tmp_path, capsys):
    properties = type("P", (), {"name": "Made Up 9000", "major": 9, "minor": 0})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr("monosem.bench.gpu_clock.Clock", lambda device: None)
    entries = {"kernels": {"decode_loss": {"64": {"J": 2}}}, "tried": []}
    monkeypatch.setattr(tune, "tune", lambda *_, **__: entries)
    own = launch.TUNED / "made_up_9000.json"
    assert main(["bench", "--tune", str(tmp_path / "new/tables")]) == 0 and not own.exists()
    path = tmp_path / "new/tables/made_up_9000.json"
    assert str(path) in capsys.readouterr().out
    assert json.loads(path.read_text())["kernels"] == entries["kernels"]
    told = "from monosem.kernels import launch; print(launch.table('Made Up 9000'))"
    environment = {**os.environ, "MONOSEM_TUNED": str(path.parent)}
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(entries["kernels"])
    assert main(["bench", "--tune", str(path)]) != 0
    assert "wanted a folder" in capsys.readouterr().err
