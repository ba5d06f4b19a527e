"""The tests that run before measurements: each file once, logs elsewhere, and the outcome per backend."""

import os
import sys
import time

import gpu_checks
import pytest
from simulated_gpu import kept_tests, part, run_in

TESTER = """
import os, sys
report = next(a for a in sys.argv if a.startswith("--junitxml=")).split("=", 1)[1]
bad = "rows" in sys.argv[-1] and os.environ.get("MONOSEM_BACKEND") == "cuda"
print("ran", sys.argv[-1], "threads", os.environ["OMP_NUM_THREADS"], "in", os.listdir(os.environ["OUT"]))
case = '<testcase name="test_x"><failure/></testcase>' if bad else ""
open(report, "w").write(f'<testsuite tests="3" failures="{int(bad)}" errors="0" skipped="1">{case}</testsuite>')
sys.exit(int(bad))
"""


@pytest.fixture
def tester(tmp_path, monkeypatch):
    def use(text=TESTER):
        script = tmp_path / "tester.py"
        script.write_text(text)
        monkeypatch.setattr(gpu_checks, "PYTEST", (sys.executable, str(script)))
        monkeypatch.setenv("OUT", str(tmp_path / "out"))
        return run_in(tmp_path / "out")

    return use


def test_every_gpu_test_is_in_exactly_one_part():
    parts = gpu_checks.parts()
    assert all(p.path.exists() for p in parts) and len({p.name for p in parts}) == len(parts)
    # Operations without a CUDA kernel run in Triton for either backend: once is enough.
    cuda = {p.path.stem for p in parts if p.backend == "cuda"}
    assert cuda.isdisjoint({"test_encode", "test_triton_paths"}) and {"test_rows", "test_cuda", "test_step"} <= cuda
    needs_one = {p.name for p in (gpu_checks.TESTS / "gpu").glob("test_*.py")}
    assert needs_one <= {p.path.name for p in parts}


def test_every_part_runs_and_only_json_is_kept(tester, tmp_path):
    run, parts = tester(), gpu_checks.parts()
    gpu_checks.run_tests(run, parts, 60.0, 4)
    stored = run.stored("tests")
    count = len(parts)
    assert stored["of"] == len(stored["parts"]) == count
    assert (stored["passed"], stored["failed"], stored["skipped"]) == (2 * count - 1, 1, count)
    (red,) = [p for p in stored["parts"] if p["exit_code"]]
    assert red["name"] == "ops/test_rows.py cuda" and "ran" in red["tail"] and red["red"] == ["test_x"]
    assert f"threads {max(1, min(2, (os.cpu_count() or 1) // 2))}" in red["tail"]
    assert "log" not in red["tail"].split(" in ")[1] and [p.name for p in (tmp_path / "out").iterdir()] == [
        "tests.json"
    ]


def test_green_files_are_not_run_again(tester, tmp_path):
    parts = gpu_checks.parts()
    gpu_checks.run_tests(tester(), parts, 60.0, 4)
    again = tester(TESTER.replace("print(", "open(os.environ['OUT'] + '/../ran', 'a').write(sys.argv[-1]); print("))
    gpu_checks.run_tests(again, parts, 60.0, 4)
    assert (tmp_path / "ran").read_text().endswith("test_rows.py") and (tmp_path / "ran").read_text().count(".py") == 1
    assert again.stored("tests")["of"] == len(again.stored("tests")["parts"]) == len(parts)


def test_a_hanging_part_is_stopped_with_its_children(tester):
    hang = (
        "import subprocess, sys, time; subprocess.Popen(['sleep', '77.25']); print('begun', flush=True); time.sleep(77)"
    )
    run = tester(hang)
    parts, begin = gpu_checks.parts()[:2], time.monotonic()
    gpu_checks.run_tests(run, parts, 1.5, 4)
    assert time.monotonic() - begin < 20
    assert [gpu_checks.outcome(p) for p in run.stored("tests")["parts"]] == ["stopped", "stopped"]
    assert "77.25" not in os.popen("ps -eo args").read()


def test_a_part_whose_process_aborts_is_red(tester):
    run = tester("import os; print('Fatal Python error'); os.abort()")
    gpu_checks.run_tests(run, gpu_checks.parts()[:1], 30.0, 1)
    (stored,) = run.stored("tests")["parts"]
    assert gpu_checks.outcome(stored) == "red" and "Fatal" in stored["tail"]


def test_counts_of_a_test_report(tmp_path):
    report = tmp_path / "report.xml"
    assert gpu_checks.counts(report) == {"passed": 0, "failed": 0, "skipped": 0, "red": []}
    report.write_text('<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3"/></testsuites>')
    assert gpu_checks.counts(report) == {"passed": 4, "failed": 3, "skipped": 3, "red": []}
    report.write_text("<testsuites><testsuite tes")  # of a process that was killed
    assert gpu_checks.counts(report)["passed"] == 0


RED = {"failed": 1, "exit_code": 1, "red": ["test_x"]}


@pytest.mark.parametrize(
    ("parts", "triton", "cuda"),
    [
        ([part(), part("cuda")], "green", "green"),
        ([part(), part("cuda", **RED)], "green", "red"),
        ([part(**RED), part("cuda")], "red", "green"),
        # A step by CUDA begins with Triton's selection.
        ([part(selection=True, **RED), part("cuda")], "red", "red"),
        ([part(), part("cuda", passed=0)], "green", "not run"),  # all skipped: the module was not built
        ([part(), part("cuda", passed=0, exit_code=5)], "green", "not run"),
        ([part(), part("cuda", passed=0, exit_code=-11)], "green", "red"),
        ([part(), part("cuda", exit_code=-9, stopped=True)], "green", "stopped"),
        ([part()], "green", "not run"),
    ],
)
def test_tests_state_of_each_backend(tmp_path, parts, triton, cuda):
    run = run_in(tmp_path)
    run.keep("tests", kept_tests(*parts))
    assert [gpu_checks.state(run, "step", {"backend": b}) for b in ("triton", "cuda")] == [triton, cuda]
    assert gpu_checks.state(run, "floor", {}) is None


def test_an_operation_by_cuda_does_not_need_the_selection(tmp_path):
    run = run_in(tmp_path)
    assert gpu_checks.state(run, "ops", {"backend": "cuda"}) == "not run"
    run.keep("tests", kept_tests(part(selection=True, **RED), part("cuda")))
    assert gpu_checks.state(run, "ops", {"backend": "cuda"}) == "green"
    run.keep("tests", kept_tests(part(), part("cuda")) | {"of": 3})  # one did not finish
    assert gpu_checks.state(run, "ops", {"backend": "cuda"}) == "not run"
