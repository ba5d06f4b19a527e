"""The table at the end of ``bench/gpu.py``: all figures, and those that are missing."""

import gpu_table
from simulated_gpu import ABOUT, RATES, kept_tests, part, run_in

from monosem.bench import floor
from monosem.bench.workloads import WORKLOADS


def test_the_table_shows_every_section_and_missing_rows(tmp_path):
    run = run_in(tmp_path)
    run.keep("tests", kept_tests(part(), part("cuda", failed=1, exit_code=1, red=["test_x"])))
    run.keep("floor", {"rows": [{"shape": "gpt2", **floor.step(WORKLOADS["gpt2"], floor.Rates(**RATES))}]})
    timing = {"ms": 2.0, "how": "graph"}
    step = {"graph": timing, "eager": {"ms": 3.0, "how": "eager"}, "ms": 2.0, "to_floor": 1.5, "tokens_per_second": 2e6,
            "over_state": 0.04, "parts_ms": {"in all": 4.0, "topk_encode": 3.0, "between": 1.0}}  # fmt: skip
    low = {
        "shape": "gpt2",
        "backend": "triton",
        "options": {"adam_state": "bf16"},
        **step,
        "graph": {**timing, "ms": 0.5},
        "ms": 0.5,
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
    kernel = {"kernel": "collect", "launches": 4, "launch_us": 250.0, "ms": 1.0, "bytes": 2_000_000, "floor_ms": 0.5,
              "to_floor": 2.0}  # fmt: skip
    kernels = {"kernels": [kernel, *({**kernel, "kernel": f"k{i}"} for i in range(20))], "kernels_ms": 21.0, "ms": 22.0}
    run.keep("kernels", {"rows": [{"shape": "gpt2", "backend": "triton", "by": "profiler", **kernels}]})
    peer = {"shape": "gpt2", "name": "sparsify", "variant": "", "precision": "bf16", "ms": 9.0}
    run.keep("peers", {"rows": [peer, peer | {"name": "SAELens", "error": "No module named 'sae_lens'"}]})
    run.keep("sanitizer", {"memcheck": {"clean": True}, "racecheck": {"error": "not on PATH"}})
    table = gpu_table.table(run, ["gpt2", "llama3"])
    expected = """6 passed, 1 failed | red: a cuda: test_x | [tests: red] | floor | candidates scored again | collect
        2 MB, floor 0.5000 ms: 2.00 × | 9 more, 36 launches | 1.50 × floor | 2.00 M tokens/s | memory +4 %
        4.50 × our step | csc | topk_encode 3.000 (75 %) | adam_state=bf16 | No module named 'sae_lens'
        memcheck: clean | racecheck: not on PATH | llama3"""
    for words in expected.replace("\n        ", " | ").split(" | "):
        assert words in table, table
    assert "REHEARSAL" not in table
    rehearsal = run_in(tmp_path / "other", about={**ABOUT, "rehearsal": True})
    assert gpu_table.table(rehearsal, ["gpt2"]).count("REHEARSAL") == 2


def test_failures_are_rows_without_all_figures(tmp_path):
    run = run_in(tmp_path)
    rows = [{"shape": "gpt2", "backend": "cuda", "name": name} for name in "abcd"]
    rows[1]["error"], rows[2]["lost"] = "E", {"as a graph": "F"}
    rows[3]["error"] = "no time was left"
    run.keep("ops", {"rows": rows})
    assert [row["name"] for row in gpu_table.failures(run)] == ["b", "c", "d"]
    assert [gpu_table.only_time(row) for row in gpu_table.failures(run)] == [False, False, True]
