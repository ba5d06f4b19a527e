"""A unit that crashes, hangs or runs out of time loses its own figure; stored figures are not measured again."""

import json
import sys
import time

import gpu_run
import gpu_worker
import pytest
from simulated_gpu import ABOUT, run_in

WORKER = """
import json, os, sys, time
asked = json.load(open(sys.argv[1]))["tasks"]
def tell(number, **what):
    with open(sys.argv[2], "a") as out:
        out.write(json.dumps({"task": number} | what) + "\\n")
for number, task in enumerate(asked):
    about = {name: task[name] for name in ("section", "shape", "backend")}
    tell(number, begin="its data")
    if task["shape"] in os.environ.get("NO_DATA", ""): sys.exit("no data")
    tell(number, end="its data")
    for unit in ("first", "second", "third"):
        if unit in task["skip"]: continue
        open(os.environ["ASKED"], "a").write(f"{task['shape']} {task['backend']} {unit}\\n")
        tell(number, begin=unit)
        if [task["shape"], task["backend"], unit] == ["b", "cuda", "second"]: FAIL
        tell(number, row=about | ({"name": unit} if task["section"] == "ops" else {}) | {unit: 1.0})
        tell(number, end=unit)
    tell(number, finished=True)
"""
FAULT = 'print("an illegal memory access was encountered"); os._exit(7)'
SECTIONS = ("step", "ops")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measure both sections of shapes a, b, c by two backends, with what happens in one unit; the rows by section."""
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))

    def measure(fail="pass", **how):
        script = tmp_path / "worker.py"
        script.write_text(WORKER.replace("FAIL", fail))
        run = how.pop("run", None) or run_in(tmp_path / "out")
        tasks = [{"section": s, "shape": x, "backend": b} for s in SECTIONS for x in "abc" for b in ("triton", "cuda")]
        (tmp_path / "asked").write_text("")
        gpu_worker.measure(run, tasks, command=[sys.executable, str(script)], **how)
        stored = {s: json.loads((tmp_path / f"out/{s}.json").read_text()) for s in SECTIONS}
        assert all(section["about"] == ABOUT for section in stored.values())
        return {s: section["rows"] for s, section in stored.items()}

    measure.asked = lambda: (tmp_path / "asked").read_text().splitlines()
    return measure


def bad(rows):
    return [row for row in rows if "error" in row or "lost" in row]


def test_a_faulting_kernel_loses_only_its_own_figure(measured):
    why = "its process ended with 7: an illegal memory access was encountered"
    rows = measured(FAULT)
    assert len(rows["step"]) == 6 and len(rows["ops"]) == 18
    (step,), (op,) = bad(rows["step"]), bad(rows["ops"])
    assert step["lost"] == {"second": why} and step["first"] == step["third"] == 1.0 and "error" not in step
    assert (op["shape"], op["backend"], op["name"], op["error"]) == ("b", "cuda", "second", why)
    assert len(measured.asked()) == 2 * 18  # nothing was measured twice


def test_a_raising_kernel_loses_only_its_own_figure(measured):
    rows = measured('tell(number, lost="OutOfMemoryError: 4 TiB"); continue')
    (step,), (op,) = bad(rows["step"]), bad(rows["ops"])
    assert step["lost"] == {"second": "OutOfMemoryError: 4 TiB"} and op["error"] == "OutOfMemoryError: 4 TiB"


def test_a_hanging_kernel_is_stopped(measured, monkeypatch):
    monkeypatch.setattr(gpu_worker, "PATIENCE", 2)
    begin = time.monotonic()
    rows = measured("time.sleep(60)")
    assert time.monotonic() - begin < 30
    assert "without a word" in bad(rows["step"])[0]["lost"]["second"] and len(rows["ops"]) == 18


def test_after_a_failed_capture_the_rest_runs_in_another_process(measured):
    rows = measured('tell(number, lost="not captured as a graph"); sys.exit(3)')
    assert len(bad(rows["ops"])) == len(bad(rows["step"])) == 1 and len(rows["ops"]) == 18
    assert len(measured.asked()) == 2 * 18


def test_a_task_without_data_is_lost_alone(measured, monkeypatch):
    monkeypatch.setenv("NO_DATA", "b")
    rows = measured()
    assert [(row["shape"], row["error"]) for row in bad(rows["step"])] == 2 * [
        ("b", "its process ended with 1: no data")
    ]
    assert [row["name"] for row in bad(rows["ops"])] == 2 * ["its data"] and len(rows["ops"]) == 2 + 12


def test_a_process_that_cannot_begin_ends_after_each_task_was_tried(measured, tmp_path):
    run = run_in(tmp_path / "out")
    tasks = [{"section": "step", "shape": s, "backend": "cuda"} for s in "ab"]
    gpu_worker.measure(run, tasks, command=["false"])
    assert [row["error"] for row in run.stored("step")["rows"]] == 2 * ["its process ended with 1: "]


def test_a_later_call_measures_what_failed_and_nothing_else(measured):
    measured(FAULT)
    rows = measured()
    assert not bad(rows["step"]) and not bad(rows["ops"]) and len(rows["step"]) == 6 and len(rows["ops"]) == 18
    assert measured.asked() == ["b cuda second", "b cuda second"]
    measured(FAULT)
    assert measured.asked() == []
    measured(again=True)
    assert len(measured.asked()) == 36


def test_other_shapes_of_an_earlier_call_stay(measured, tmp_path):
    measured()
    run = run_in(tmp_path / "out")
    command = [sys.executable, str(tmp_path / "worker.py")]
    gpu_worker.measure(run, [{"section": "step", "shape": "d", "backend": "cuda"}], command=command)
    assert {row["shape"] for row in run.stored("step")["rows"]} == set("abcd")


def test_remaining_rows_report_that_time_ran_out(measured, tmp_path):
    times = iter([0.0] + [59.0] * 99)
    rows = measured(run=run_in(tmp_path / "out", now=lambda: next(times)))
    assert {row["error"] for row in rows["step"]} == {gpu_run.NO_TIME} and len(rows["step"]) == 6
    rows = measured()  # and is done later
    assert not bad(rows["step"]) and not bad(rows["ops"]) and len(rows["ops"]) == 18


def test_a_unit_gets_a_grace_period_after_the_time_limit(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_worker, "GRACE", 1)
    begin = time.monotonic()
    run = run_in(tmp_path / "out", minutes=14 / 60)
    rows = measured("time.sleep(60)", run=run)
    assert time.monotonic() - begin < 40
    assert {"second": gpu_run.NO_TIME}.items() <= bad(rows["step"])[0]["lost"].items()
    assert "error" not in rows["step"][0]  # what was measured before it
