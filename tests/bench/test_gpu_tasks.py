"""The units that ``bench/gpu_tasks.py`` measures, on a CPU with a simulated clock."""

import json
import sys
from pathlib import Path

import gpu
import gpu_tasks
import pytest
import torch
from simulated_gpu import RATES, FakeClock

from monosem.bench import floor, gpu_clock, operations
from monosem.bench.workloads import WORKLOADS
from monosem.ops import backend
from monosem.ops import gpu as gpu_ops


@pytest.fixture
def on_the_processor(monkeypatch):
    """The operations are those of the processor, under the name of a backend."""
    monkeypatch.setattr(gpu_tasks, "environment", lambda **_: gpu_tasks.contextmanager(lambda: (yield))())
    product = backend.cpu_product()  # the options' product is a GPU's
    monkeypatch.setattr(backend, "cpu_product", lambda: product)
    monkeypatch.setenv("MONOSEM_PRODUCT", "auto")
    monkeypatch.setitem(WORKLOADS, "tiny_relu", WORKLOADS["tiny"].with_(kind="relu", name="tiny_relu"))


class Told(list):
    """Messages of a task."""

    def __call__(self, **what):
        self.append(what)

    @property
    def rows(self):
        return [what["row"] for what in self if "row" in what]

    @property
    def lost(self):
        begun = [what["begin"] for what in self if "begin" in what]
        ends = [what for what in self if "end" in what or "lost" in what]
        return {name: what["lost"] for name, what in zip(begun, ends, strict=False) if "lost" in what}


def perform(section, shape="tiny", clock=None, **about):
    told = Told()
    task = {"section": section, "shape": shape, "backend": "triton", "rates": RATES, **about}
    gpu_tasks.perform(task, clock or FakeClock(), told)
    return told


def test_a_step(on_the_processor):
    told, w = perform("step"), WORKLOADS["tiny"]
    assert [what["begin"] for what in told if "begin" in what] == [
        "its data",
        "as called",
        "where it goes",
        "as a graph",
    ]
    assert told[-1] == {"finished": True} and not told.lost
    step = told.rows[0] | told.rows[1] | told.rows[2]
    assert step["floor_ms"] == pytest.approx(floor.step(w, floor.Rates(**RATES))["ms"])
    assert step["tokens_per_second"] == pytest.approx(w.n / 1e-3) and step["to_floor"] == 1.0 / step["floor_ms"]
    assert step["over_state"] == pytest.approx(1e6 / w.state_bytes("bf16") - 1)
    assert step["parts_ms"]["csc"] == 0.75 and "options" not in step
    assert step["eager"]["how"] == "eager" and step["graph"]["how"] == "graph"
    assert len(step["losses"]) == 3 and step["losses"][-1] == pytest.approx(step["losses"][0], rel=0.5)


def test_operations(on_the_processor):
    told = perform("ops")
    assert {row["name"] for row in told.rows} <= set(gpu_ops.IMPLEMENTATIONS) and len(told.rows) == 11
    assert all(row["ms"] == 1.0 and row["to_floor"] == pytest.approx(1.0 / row["floor_ms"]) for row in told.rows)


def test_finished_units_are_skipped(on_the_processor):
    told = perform("ops", skip=["csc", "topk_encode"])
    assert len(told.rows) == 9 and not {"csc", "topk_encode"} & {row["name"] for row in told.rows}


@pytest.mark.parametrize("section", ["step", "ops"])
def test_times_are_reported_without_a_floor(on_the_processor, section):
    for row in perform(section, rates=None).rows[:1]:
        assert row["ms"] == 1.0 and "to_floor" not in row and "floor_ms" not in row


@pytest.mark.parametrize(
    ("shape", "options"),
    [("tiny", options) for options in gpu.OPTIONS]
    + [("tiny_relu", options) for options in gpu.OPTIONS if "dead" not in options],  # AuxK is TopK's
)
def test_a_step_with_options(on_the_processor, shape, options):
    told = perform("step", shape, options=options)
    assert not told.lost and all(row["options"] == options for row in told.rows)
    assert told.rows[0]["state_bytes"] == WORKLOADS[shape].state_bytes("bf16", options.get("adam_state", "fp32"))


def test_dead_features_add_auxk_to_the_step(on_the_processor):
    step = gpu_tasks.Step(FakeClock(), WORKLOADS["tiny"], {"dead": 0.05})
    assert float(step.dead.float().mean()) == pytest.approx(0.05, abs=0.01)
    assert float(step().aux) > 0


def test_an_operation_out_of_memory_is_reported_in_one_line(on_the_processor):
    told = perform("ops", clock=FakeClock(fail={3}))
    assert told.lost == {"decode_loss": "OutOfMemoryError: CUDA out of memory. Tried to allocate 4 TiB"}
    assert len(told.rows) == 10


@pytest.mark.parametrize("kernel", ["topk_encode", "csc", "decode_loss"])
def test_a_failing_operation_leaves_the_data_of_others(on_the_processor, monkeypatch, kernel):
    def broken(*_):
        raise RuntimeError("an illegal memory access was encountered")

    name = "decode_loss_rows" if kernel == "decode_loss" else kernel
    monkeypatch.setattr(operations.ops, name, broken)
    told = perform("ops")
    assert list(told.lost) == [kernel] and len(told.rows) == 10


class BreakingClock(FakeClock):
    """The second capture fails."""

    def time(self, call, graph=True):
        assert not self.broken
        self.captures = getattr(self, "captures", 0) + graph
        if graph and self.captures == 2:
            self.broken = "RuntimeError: operation not permitted"
            raise gpu_clock.CaptureFailed(f"not captured as a graph ({self.broken})")
        return super().time(call, graph)


@pytest.mark.parametrize(("shape", "timed"), [("tiny", 1), ("tiny_relu", 2)])
def test_a_process_whose_capture_failed_measures_nothing_more(on_the_processor, monkeypatch, tmp_path, shape, timed):
    """And threshold_encode, which waits for the GPU, is not captured."""
    tasks, answers = tmp_path / "tasks.json", tmp_path / "answers.jsonl"
    task = {"section": "ops", "shape": shape, "backend": "triton", "rates": RATES}
    tasks.write_text(json.dumps({"tasks": [task, task], "seconds": 60}))
    monkeypatch.setattr(sys, "argv", ["gpu_tasks.py", str(tasks), str(answers)])
    monkeypatch.setattr(gpu_clock, "Clock", lambda device: BreakingClock())
    assert gpu_tasks.main() == gpu_tasks.SPOILED
    told = [json.loads(line) for line in Path(answers).read_text().splitlines()]
    assert [what["row"]["how"] for what in told if "row" in what] == ["eager", "graph"][-timed:]
    assert "not captured" in told[-1]["lost"] and {what["task"] for what in told} == {0}


def test_a_step_that_is_not_captured_is_timed_as_it_is_called(on_the_processor):
    clock = BreakingClock()
    clock.captures = 1
    told = perform("step", clock=clock)
    assert list(told.lost) == ["as a graph"] and told.rows[0]["eager"]["ms"] == 1.0 and len(told.rows) == 2


def test_only_operations_that_a_backend_has_are_timed(on_the_processor, monkeypatch):
    only = {name: {"triton": ""} | ({"cuda": ""} if name == "csc" else {}) for name in gpu_ops.IMPLEMENTATIONS}
    monkeypatch.setattr(gpu_ops, "IMPLEMENTATIONS", only)
    assert [row["name"] for row in perform("ops", backend="cuda").rows] == ["csc"]


def test_data_that_do_not_fit_are_an_error_of_the_task(on_the_processor, monkeypatch):
    monkeypatch.setattr(operations, "operations", lambda *_, **__: 1 / 0)
    told = perform("ops")
    assert told.lost == {"its data": "ZeroDivisionError: division by zero"} and not told.rows


def test_the_data_are_made_without_monosem_kernels(monkeypatch):
    """A broken kernel then loses only its own figure: on a GPU the data come from PyTorch and the definitions."""
    for name in ("topk_encode", "threshold_encode", "decode_loss_rows", "csc"):
        monkeypatch.setattr(operations.ops, name, lambda *_: pytest.fail("a kernel ran"))
    for kind in ("topk", "relu"):
        w = WORKLOADS["tiny"].with_(kind=kind)
        assert len(operations.operations(w, encoded=False)) == 11
    code = operations.drawn(w, torch.device("cpu"))
    rows = code.indices.view(w.n, w.k)
    assert (rows[:, 1:] > rows[:, :-1]).all() and rows.min() >= 0 and rows.max() < w.f
