"""``bench/gpu.py`` where there is no GPU: what it refuses, what it counts, what it writes, and that a failure of one
thing is a line of the report and not the end of it. Times come from a clock that is made up."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import gpu
import gpu_peer
import gpu_run
import gpu_tasks
import pytest
import torch

from monosem.bench import floor, gpu_clock
from monosem.bench.gpu_clock import Timing
from monosem.bench.workloads import WORKLOADS
from monosem.ops import gpu as gpu_ops

ABOUT = {"gpu": "Made Up 9000", "commit": "abc"}


class FakeClock:
    """Runs every call once and says that it took a millisecond."""

    device, broken = torch.device("cpu"), ""

    def __init__(self, fail=()):
        self.fail, self.calls = fail, 0

    def time(self, call, graph=True):
        self.calls += 1
        if self.calls in self.fail:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 TiB\nand more")
        call()
        return Timing(1.0, 0.9, 1.1, 5, "graph" if graph else "eager")

    def allocated(self):
        return 0

    def peak_bytes(self, call, before):
        call()
        return 1_000_000

    def breakdown(self, call):
        call()
        return {"in all": 1.0, "csc": 0.75, "between": 0.25}


def run_in(tmp_path, minutes=1.0, now=None, about=ABOUT):
    return gpu_run.Run(tmp_path, minutes, about, **({"now": now} if now else {}))


def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert "no GPU" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "bad", [["--only", "speed"], ["--shapes", "gpt9"], ["--python", "sparsify"], ["--python", "x=/bin/python"]]
)
def test_bad_arguments_name_what_was_wanted(bad, capsys):
    with pytest.raises(SystemExit):
        gpu.parse(["--out", "x", *bad])
    assert "wanted" in capsys.readouterr().err


def test_the_shapes_are_there():
    assert set(gpu.SHAPES) <= set(WORKLOADS)
    w = WORKLOADS["llama3"]
    assert (w.n, w.d, w.f, w.k) == (8192, 4096, 131_072, 64) and WORKLOADS["widest_relu"].kind == "relu"


def test_every_shape_fits_the_smaller_card():
    """78 GiB: the state, the weights that a step starts from, batches, both gradients where ReLU is dense, and room."""
    for name in gpu.SHAPES:
        w = WORKLOADS[name]
        matrix = 4 * w.f * w.d
        needed = (
            w.state_bytes("bf16") + matrix + 6 * 4 * w.n * w.d + (2 * matrix if w.kind == "relu" else 0) + (1 << 30)
        )
        assert needed < 78 << 30, (name, needed)
        for options in gpu.OPTIONS:
            assert w.state_bytes("bf16", options["adam_state"]) < w.state_bytes("bf16")


def part(**changes):
    return {"passed": 3, "failed": 0, "skipped": 1, "exit_code": 0, "tail": "", **changes}


@pytest.mark.parametrize(
    ("parts", "good"),
    [
        ([part(), part(), part()], True),
        ([part(), part()], False),  # a backend's tests did not run
        ([part(), part(), part(passed=0)], False),  # all skipped is not green
        ([part(), part(failed=1, exit_code=1), part()], False),
        ([part(), part(), part(exit_code=124)], False),
    ],
)
def test_what_is_green(parts, good):
    assert gpu.green({"parts": parts, "of": 3}) is good
    assert gpu.green(None) is False


def test_red_tests_end_it_before_any_speed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "describe", lambda: {**ABOUT, "torch": "", "triton": ""})
    monkeypatch.setattr(gpu, "speeds", lambda *_: pytest.fail("a speed was measured"))
    red = [part(), part(failed=2, exit_code=1, tail="assert 1 == 2"), part()]
    monkeypatch.setattr(
        gpu, "run_tests", lambda run: run.keep("tests", {"parts": red, "of": 3, "passed": 9, "failed": 2})
    )
    assert gpu.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "assert 1 == 2" in said.out and "not green" in said.err
    # Nor when the tests were green on another commit.
    run_in(tmp_path, about={**ABOUT, "commit": "older"}).keep("tests", {"parts": [part()] * 3, "of": 3})
    assert gpu.main(["--out", str(tmp_path), "--only", "step"]) == 1


TESTER = """
import os, sys
report = next(a for a in sys.argv if a.startswith("--junitxml=")).split("=", 1)[1]
what = sys.argv[-1] if "-k" not in sys.argv else sys.argv[sys.argv.index("-k") - 1]
bad = "rows" in what and os.environ.get("MONOSEM_BACKEND") == "cuda"
print("ran", what)
open(report, "w").write(f'<testsuite tests="3" failures="{int(bad)}" errors="0" skipped="1"/>')
sys.exit(int(bad))
"""


def test_every_file_of_tests_is_run_by_each_backend(tmp_path, monkeypatch):
    script = tmp_path / "tester.py"
    script.write_text(TESTER)
    monkeypatch.setattr(gpu, "PYTEST", (sys.executable, str(script)))
    run = run_in(tmp_path / "out")
    gpu.run_tests(run)
    found = run.stored("tests")
    count = 2 + 2 * len(gpu.OPERATIONS)  # tests/gpu has two files
    assert found["of"] == len(found["parts"]) == count
    assert (found["passed"], found["failed"], found["skipped"]) == (2 * count - 1, 1, count)
    (red,) = [part for part in found["parts"] if part["exit_code"]]
    assert (red["what"], red["MONOSEM_BACKEND"]) == ("test_rows.py", "cuda") and "ran" in red["tail"]
    assert not gpu.green(found) and [p.name for p in (tmp_path / "out").iterdir()] == ["tests.json"]
    assert all((gpu.TESTS / f).exists() for f in gpu.OPERATIONS)


def test_counts_of_a_test_report(tmp_path):
    report = tmp_path / "report.xml"
    assert gpu.counts(report) == {"passed": 0, "failed": 0, "skipped": 0}
    report.write_text('<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3"/></testsuites>')
    assert gpu.counts(report) == {"passed": 4, "failed": 3, "skipped": 3}


def test_floor_counts_every_byte_and_product():
    w = WORKLOADS["llama3"]
    found = floor.step(w, floor.Rates(800e12, 4e12, "bf16"))
    assert found["product_ms"] == pytest.approx(1e3 * 2 * 8192 * 4096 * 131_072 / 800e12)  # 11 ms
    assert found["gathers_ms"] == pytest.approx(1e3 * 3 * 8192 * 64 * 4096 * 4 / 4e12)  # three passes over N·K rows
    assert found["adam_ms"] == pytest.approx(1e3 * 2 * 131_072 * 4096 * 24 / 4e12)  # w, m, v read and written, twice
    assert found["ms"] == pytest.approx(found["product_ms"] + found["gathers_ms"] + found["adam_ms"])


def test_rates_come_from_what_was_timed(monkeypatch):
    clock = FakeClock()
    sizes = []
    monkeypatch.setattr(gpu_clock.torch, "empty_like", lambda t: sizes.append(t.numel() * 4) or torch.zeros_like(t))
    assert gpu_clock.copy_bytes_per_second(clock, 1 << 12) == pytest.approx(2 * (1 << 12) / 1e-3)
    assert gpu_clock.product_flops_per_second(clock, 8, 4, 64, torch.float32) == pytest.approx(2 * 8 * 4 * 64 / 1e-3)


class FakeEvent:
    """Each is a millisecond after the one before."""

    now = 0

    def record(self):
        FakeEvent.now += 1
        self.at = FakeEvent.now

    def elapsed_time(self, other):
        return float(other.at - self.at)


def test_where_the_time_of_a_step_goes(monkeypatch):
    for name in ("synchronize", "_sleep"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    clock = gpu_clock.Clock.__new__(gpu_clock.Clock)
    monkeypatch.setattr(gpu_clock.Clock, "_event", staticmethod(FakeEvent))
    clock.device, called = torch.device("cpu"), []
    monkeypatch.setattr(gpu_ops, "call", lambda op, *_: called.append(op))

    def step():
        for op in ("csc", "row_grad_adam_", "row_grad_adam_"):
            gpu_ops.call(op, None, ())

    plain = gpu_ops.call
    parts = clock.breakdown(step, repeats=3)
    # begin, three times (begin, end), end: seven ticks, three of them within operations.
    assert parts == {"in all": 7.0, "between": 4.0, "row_grad_adam_": 2.0, "csc": 1.0}
    assert next(iter(parts)) == "in all" and len(called) == 9 and gpu_ops.call is plain


RATES = {"flops_per_second": 1e12, "bytes_per_second": 1e11, "product": "bf16"}


@pytest.fixture
def on_the_processor(monkeypatch):
    """The operations are those of the processor, under the name of a backend."""
    monkeypatch.setattr(gpu_tasks, "environment", lambda **_: gpu_tasks.contextmanager(lambda: (yield))())


def test_steps_and_operations_of_a_shape(on_the_processor):
    rows = []
    for section in ("step", "ops"):
        task = {"section": section, "shape": "tiny", "backend": "triton", "rates": RATES}
        gpu_tasks.perform(task, FakeClock(), rows.append)
    step, ops = rows[0], rows[1:]
    assert step["floor_ms"] == pytest.approx(floor.step(WORKLOADS["tiny"], floor.Rates(**RATES))["ms"])
    assert step["tokens_per_second"] == pytest.approx(WORKLOADS["tiny"].n / 1e-3)
    assert step["over_state"] == pytest.approx(1e6 / WORKLOADS["tiny"].state_bytes("bf16") - 1)
    assert step["parts_ms"]["csc"] == 0.75 and "options" not in step
    assert len(step["losses"]) == 3 and step["losses"][-1] == pytest.approx(step["losses"][0], rel=0.5)
    assert {row["name"] for row in ops} <= set(gpu_ops.IMPLEMENTATIONS) and len(ops) == 10
    assert all(row["ms"] == 1.0 and row["to_floor"] == pytest.approx(1.0 / row["floor_ms"]) for row in ops)


@pytest.mark.parametrize("shape", ["tiny", "tiny_relu"])
def test_a_step_in_less_memory(on_the_processor, monkeypatch, shape):
    monkeypatch.setitem(WORKLOADS, "tiny_relu", WORKLOADS["tiny"].with_(kind="relu", name="tiny_relu"))
    for options in gpu.OPTIONS:
        rows = []
        task = {"section": "step", "shape": shape, "backend": "triton", "rates": RATES, "options": options}
        gpu_tasks.perform(task, FakeClock(), rows.append)
        (row,) = rows
        assert row["options"] == options and "error" not in row
        assert row["state_bytes"] == WORKLOADS[shape].state_bytes("bf16", options["adam_state"])


def test_one_operation_without_memory_is_one_line(on_the_processor):
    rows = []
    task = {"section": "ops", "shape": "tiny", "backend": "triton", "rates": RATES}
    gpu_tasks.perform(task, FakeClock(fail={3}), rows.append)
    assert [i for i, row in enumerate(rows) if "error" in row] == [2] and len(rows) == 10
    assert rows[2]["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 4 TiB"


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
    monkeypatch.setitem(WORKLOADS, "tiny_relu", WORKLOADS["tiny"].with_(kind="relu", name="tiny_relu"))
    tasks, answers = tmp_path / "tasks.json", tmp_path / "answers.jsonl"
    task = {"section": "ops", "shape": shape, "backend": "triton", "rates": RATES}
    tasks.write_text(json.dumps({"tasks": [task, task], "seconds": 60}))
    monkeypatch.setattr(sys, "argv", ["gpu_tasks.py", str(tasks), str(answers)])
    monkeypatch.setattr(gpu_clock, "Clock", lambda device: BreakingClock())
    assert gpu_tasks.main() == 3
    rows = gpu_run.answered(answers)
    assert [row["how"] for row in rows[:-1]] == ["eager", "graph"][-timed:] and "not captured" in rows[-1]["error"]
    assert not any("done" in row for row in rows)  # so that another process goes on after it


def test_a_step_that_is_not_captured_is_timed_as_it_is_called(on_the_processor):
    rows, clock = [], BreakingClock()
    clock.captures = 1
    gpu_tasks.perform({"section": "step", "shape": "tiny", "backend": "triton", "rates": RATES}, clock, rows.append)
    (row,) = rows
    assert row["graph"] is None and row["eager"]["ms"] == 1.0 and row["to_floor"] and "not captured" in row["error"]


def test_only_operations_that_a_backend_has_are_timed(on_the_processor, monkeypatch):
    only = {name: {"triton": ""} | ({"cuda": ""} if name == "csc" else {}) for name in gpu_ops.IMPLEMENTATIONS}
    monkeypatch.setattr(gpu_ops, "IMPLEMENTATIONS", only)
    rows = []
    gpu_tasks.perform({"section": "ops", "shape": "tiny", "backend": "cuda", "rates": RATES}, FakeClock(), rows.append)
    assert [row["name"] for row in rows] == ["csc"]


WORKER = """
import json, sys
tasks = json.load(open(sys.argv[1]))["tasks"]
out = open(sys.argv[2], "a")
for number, task in enumerate(tasks):
    if task["shape"] == "b" and task["backend"] == "cuda":
        print("an illegal memory access was encountered"); sys.exit(7)
    out.write(json.dumps({"section": "step", "shape": task["shape"], "backend": task["backend"], "ms": 1}) + "\\n")
    out.write(json.dumps({"done": number}) + "\\n")
"""


def test_a_kernel_that_faults_costs_its_own_line_only(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    run = run_in(tmp_path / "out")
    tasks = [{"section": "step", "shape": s, "backend": b, "rates": {}} for s in "abc" for b in ("triton", "cuda")]
    gpu_run.measure(run, "step", tasks, [sys.executable, str(script)])
    stored = json.loads((tmp_path / "out/step.json").read_text())
    assert stored["about"] == ABOUT and len(stored["rows"]) == 6
    (broken,) = [row for row in stored["rows"] if "error" in row]
    assert (broken["shape"], broken["backend"]) == ("b", "cuda")
    assert broken["error"] == "its process ended with 7: an illegal memory access was encountered"


def test_when_time_is_up_the_rest_says_so(tmp_path):
    times = iter([0.0] + [59.0] * 9)
    run = run_in(tmp_path, minutes=1.0, now=lambda: next(times))
    gpu_run.measure(run, "step", [{"section": "step", "shape": "gpt2", "backend": "cuda"}], ["false"])
    assert json.loads((tmp_path / "step.json").read_text())["rows"][0]["error"] == gpu_run.NO_TIME


def test_a_section_of_another_card_or_commit_is_not_used(tmp_path):
    run_in(tmp_path).keep("floor", {"rows": []})
    assert run_in(tmp_path).stored("floor") == {"about": ABOUT, "rows": []}
    assert run_in(tmp_path, about={**ABOUT, "gpu": "Other"}).stored("floor") is None
    assert run_in(tmp_path, about={**ABOUT, "commit": "def"}).stored("floor") is None
    assert list(tmp_path.glob("*.part")) == []


def test_a_contestant_is_timed_and_a_failing_one_reported(tmp_path):
    script = gpu_run.PEERS["PyTorch"][0]
    job = WORKLOADS["tiny"].to_json() | {
        "script": str(script),
        "variant": "eager",
        "precision": "default",
        "device": "cpu",
    }
    found = gpu_peer.measure(job | {"steps": 4, "seconds": 60.0})
    assert found["steps"] == 4 and 0 < found["fastest_ms"] <= found["ms"] and found["loss"] > 0
    found = gpu_run.in_a_process(sys.executable, job | {"script": "nowhere.py", "steps": 1, "seconds": 1.0}, 60)
    assert found["error"].startswith("FileNotFoundError")
    assert "No module named 'nonexistent_library'" in gpu_run.importable(sys.executable, "nonexistent_library")


def test_contestants_of_relu_start_with_k_active():
    job = WORKLOADS["tiny"].with_(kind="relu").to_json()
    batches, start = gpu_peer.start(job, torch.device("cpu"))
    active = (batches[0] @ start["W_enc"].T + start["b_enc"] > 0).sum(1).float().mean()
    assert float(active) == pytest.approx(job["k"], rel=0.1)


def test_the_table_says_all_and_survives_gaps(tmp_path):
    run = run_in(tmp_path)
    run.keep("tests", {"passed": 3, "failed": 0, "skipped": 1})
    run.keep("floor", {"rows": [{"shape": "gpt2", **floor.step(WORKLOADS["gpt2"], floor.Rates(**RATES))}]})
    timing = {"ms": 2.0, "how": "graph"}
    step = {"graph": timing, "eager": {"ms": 3.0}, "to_floor": 1.5, "tokens_per_second": 2e6, "over_state": 0.04,
            "parts_ms": {"in all": 4.0, "topk_encode": 3.0, "between": 1.0}}  # fmt: skip
    low = {
        "shape": "gpt2",
        "backend": "triton",
        "options": {"adam_state": "bf16"},
        **step,
        "graph": {**timing, "ms": 0.5},
    }
    run.keep(
        "step",
        {
            "rows": [
                {"shape": "gpt2", "backend": "triton", **step},
                low,
                {"shape": "gpt2", "backend": "cuda", "error": "E"},
            ]
        },
    )
    run.keep("ops", {"rows": [{"shape": "gpt2", "backend": "cuda", "name": "csc", "to_floor": 2.0, **timing}]})
    peer = {"shape": "gpt2", "name": "sparsify", "variant": "", "precision": "bf16", "ms": 9.0}
    run.keep("peers", {"rows": [peer, peer | {"name": "SAELens", "error": "No module named 'sae_lens'"}]})
    run.keep("sanitizer", {"memcheck": {"clean": True}, "racecheck": {"error": "not on PATH"}})
    said = gpu_run.table(run, ["gpt2", "llama3"])
    for words in ("3 passed", "floor", "1.50 × floor", "2.00 M tokens/s", "memory +4 %", "4.50 × our step", "csc",
                  "topk_encode 3.000 (75 %)", "adam_state=bf16",
                  "No module named 'sae_lens'", "memcheck: clean", "racecheck: not on PATH", "llama3"):  # fmt: skip
        assert words in said, said


def test_no_machine_is_named_in_what_is_written(tmp_path):
    run = run_in(tmp_path)
    run.keep("tests", {"parts": []})
    assert str(Path.home()) not in (tmp_path / "tests.json").read_text()
