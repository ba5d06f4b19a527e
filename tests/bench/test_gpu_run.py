"""Files of ``bench/gpu.py``: written atomically, each figure once, nothing lost, marked with the tests' outcome."""

import json
from pathlib import Path

import gpu_run
from simulated_gpu import ABOUT, kept_tests, part, run_in


def test_results_of_another_card_commit_or_build_are_set_aside(tmp_path):
    run_in(tmp_path).keep("floor", {"rows": []})
    assert run_in(tmp_path).stored("floor") == {"about": ABOUT, "rows": []}
    for number, key in enumerate(("gpu", "commit", "sources", "torch", "triton"), 1):
        other = run_in(tmp_path, about={**ABOUT, key: "other"})
        assert other.stored("floor") is None
        assert json.loads((tmp_path / f"floor.earlier-{number}.json").read_text())["about"]
        other.keep("floor", {"rows": []})
    assert len(list(tmp_path.iterdir())) == 6


def test_files_of_a_run_are_written_atomically(tmp_path, monkeypatch):
    run = run_in(tmp_path / "out")
    seen, replace = [], gpu_run.os.replace

    def look(part, path):
        seen.append([p.name for p in (tmp_path / "out").iterdir()])
        replace(part, path)

    monkeypatch.setattr(gpu_run.os, "replace", look)
    for number in range(3):
        run.keep("floor", {"rows": [], "number": number})
    if Path(gpu_run.tempfile.gettempdir()).stat().st_dev == tmp_path.stat().st_dev:
        assert seen == [[], ["floor.json"], ["floor.json"]]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["floor.json"]


def test_rows_are_marked_with_the_current_tests_state(tmp_path):
    run = run_in(tmp_path)
    run.keep("step", {"rows": [{"shape": "gpt2", "backend": b, "ms": 1} for b in ("triton", "cuda")]})
    marks = lambda: [row["tests"] for row in json.loads((tmp_path / "step.json").read_text())["rows"]]
    assert marks() == ["not run", "not run"]
    run.keep("tests", kept_tests(part(failed=1, exit_code=1), part("cuda")))
    run.mark()
    assert marks() == ["red", "green"]


def test_every_row_of_a_rehearsal_is_marked(tmp_path):
    run = run_in(tmp_path, about={**ABOUT, "rehearsal": True})
    for section in ("floor", "step", "peers"):
        run.keep(section, {"rows": [{"shape": "tiny", "backend": "triton"}]})
        stored = json.loads((tmp_path / f"{section}.json").read_text())
        assert stored["about"]["rehearsal"] and stored["rows"][0]["rehearsal"]


def test_results_do_not_contain_the_host_name(tmp_path):
    run_in(tmp_path).keep("tests", {"parts": []})
    assert str(Path.home()) not in (tmp_path / "tests.json").read_text()
