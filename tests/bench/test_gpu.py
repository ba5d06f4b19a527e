"""``bench/gpu.py`` without a GPU: refused arguments, and the order in which backends and sections are measured."""

import json
import sys

import gpu
import gpu_checks
import gpu_peer
import gpu_peers
import gpu_worker
import pytest
import torch
from simulated_gpu import ABOUT, RATES, kept_tests, part, run_in

from monosem.bench import floor
from monosem.bench.workloads import WORKLOADS


def test_without_a_gpu_it_exits_with_a_message(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert "no GPU" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "bad",
    [
        ["--only", "speed"],
        ["--shapes", "gpt9"],
        ["--rehearse", "--shapes", "gpt2"],
        ["--python", "sparsify"],
        ["--python", "x=/bin/python"],
        ["--packages", "nowhere"],
    ],
)
def test_bad_arguments_name_the_expected_value(bad, capsys):
    with pytest.raises(SystemExit):
        gpu.parse(["--out", "x", *bad])
    assert "wanted" in capsys.readouterr().err


def test_every_shape_is_a_workload():
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
            assert w.state_bytes("bf16", options.get("adam_state", "fp32")) <= w.state_bytes("bf16")


RED = {"failed": 2, "exit_code": 1, "red": ["test_x"]}


@pytest.fixture
def on_a_card(tmp_path, monkeypatch):
    """A simulated card: runs the requested sections, given the outcome of its tests; returns exit code and tasks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "describe", lambda: ABOUT)

    def run(*arguments, tests=(), **about):
        done = []

        def measure(run, tasks, **_):
            done.extend(tasks)
            for section in dict.fromkeys(task["section"] for task in tasks):
                rows = [{k: v for k, v in t.items() if k != "rates"} for t in tasks if t["section"] == section]
                figures = floor.step(WORKLOADS["gpt2"], floor.Rates(**RATES)) if section == "floor" else {}
                run.keep(section, {"rows": [row | about | figures for row in rows]})

        def run_tests(run, *_):
            run.keep("tests", kept_tests(*tests))

        monkeypatch.setattr(gpu_worker, "measure", measure)
        monkeypatch.setattr(gpu.gpu_table, "table", lambda *_: "")  # of rows without figures
        monkeypatch.setattr(gpu_checks, "run_tests", run_tests)
        monkeypatch.setattr(gpu_peers, "measure", lambda *_, **__: done.append({"section": "peers", "shape": ""}))
        return gpu.main(["--out", str(tmp_path), *arguments]), done

    return run


def sections(done, backend):
    return sorted({task["section"] for task in done if task.get("backend") == backend})


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_a_backend_with_failing_tests_is_not_measured(on_a_card, capsys, backend):
    other = {"triton": "cuda", "cuda": "triton"}[backend]
    code, done = on_a_card("--shapes", "gpt2", "--only", "tests,step,ops", tests=[part(backend, **RED), part(other)])
    assert code == 1 and sections(done, backend) == [] and sections(done, other) == ["ops", "step"]
    assert {t["shape"] for t in done if t["section"] == "floor"} == {"gpt2"}
    assert f"{backend}: the tests of this build on this GPU are red" in capsys.readouterr().err


def test_anyway_measures_failing_backends_and_marks_their_rows(on_a_card, tmp_path):
    tests = [part("triton", **RED), part("cuda", passed=0)]
    code, done = on_a_card("--anyway", "--shapes", "gpt2,llama3", tests=tests)
    assert code == 1 and {"section": "peers", "shape": ""} in done
    for backend, state in (("triton", "red"), ("cuda", "not run")):
        assert sections(done, backend) == ["kernels", "ops", "step"]
        for section in ("kernels", "ops", "step"):
            rows = json.loads((tmp_path / f"{section}.json").read_text())["rows"]
            assert {row["tests"] for row in rows if row["backend"] == backend} == {state}


def test_measuring_requires_tests_of_the_same_build(on_a_card, tmp_path, monkeypatch):
    tests = [part(), part("cuda")]
    assert on_a_card("--only", "step", tests=tests)[1][6:] == []  # six floors
    assert sections(on_a_card("--only", "tests,step", tests=tests)[1], "cuda") == ["step"]
    code, done = on_a_card("--only", "step")
    assert code == 0 and sections(done, "triton") == ["step"]  # those of the previous call
    monkeypatch.setattr(gpu, "describe", lambda: {**ABOUT, "sources": "2"})
    code, done = on_a_card("--only", "step")
    assert code == 1 and sections(done, "triton") == []


def test_sections_run_in_order_of_importance(on_a_card):
    _, done = on_a_card("--only", "tests,floor,step,kernels,ops", tests=[part(), part("cuda")])
    order = list(dict.fromkeys((t["section"], t.get("backend"), bool(t.get("options"))) for t in done))
    assert order == [
        ("floor", None, False),
        ("step", "triton", False),
        ("step", "cuda", False),
        ("step", "triton", True),
        ("kernels", "triton", False),
        ("kernels", "cuda", False),
        ("ops", "triton", False),
        ("ops", "cuda", False),
    ]
    assert all(task["rates"] for task in done if task["section"] != "floor")
    assert not [t for t in done if t["shape"] == "widest_relu" and "dead" in t.get("options", {})]


def test_exit_code_is_nonzero_for_a_missing_figure_unless_time_ran_out(on_a_card):
    tests = [part(), part("cuda")]
    assert on_a_card("--only", "tests,step", tests=tests)[0] == 0
    assert on_a_card("--only", "tests,step", tests=tests, error="RuntimeError: no")[0] == 1
    assert on_a_card("--only", "tests,step", tests=tests, lost={"as a graph": "its process ended with 7"})[0] == 1
    assert on_a_card("--only", "tests,step", tests=tests, error="no time was left")[0] == 0


def test_source_digest_changes_with_the_measured_package(tmp_path, monkeypatch):
    before = gpu.sources()
    assert before == gpu.sources()
    (tmp_path / "gpu").mkdir()
    (tmp_path / "ops").mkdir()
    monkeypatch.setattr(gpu_checks, "TESTS", tmp_path)
    without_tests = gpu.sources()
    assert without_tests != before
    (tmp_path / "ops" / "row_adam").mkdir()  # one folder per operation
    (tmp_path / "ops" / "row_adam" / "triton.py").write_text("")
    assert gpu.sources() != without_tests


def test_floor_counts_every_byte_and_product():
    w = WORKLOADS["llama3"]
    best = floor.step(w, floor.Rates(800e12, 4e12, "bf16"))
    assert best["product_ms"] == pytest.approx(1e3 * 2 * 8192 * 4096 * 131_072 / 800e12)  # 11 ms
    assert best["gathers_ms"] == pytest.approx(1e3 * 3 * 8192 * 64 * 4096 * 4 / 4e12)  # three passes over N·K rows
    assert best["adam_ms"] == pytest.approx(1e3 * 2 * 131_072 * 4096 * 24 / 4e12)  # w, m, v read and written, twice
    assert best["rescore_ms"] == pytest.approx(1e3 * 8192 * 64 * 4096 * 4 / 4e12)  # K candidates per token, once more
    parts = ("product_ms", "rescore_ms", "gathers_ms", "adam_ms")
    assert best["ms"] == pytest.approx(sum(best[name] for name in parts))


def test_an_entrant_is_timed_and_a_failing_one_reported(tmp_path):
    script = gpu_peers.PEERS["PyTorch"][0]
    job = WORKLOADS["tiny"].job() | {
        "script": str(script),
        "variant": "eager",
        "precision": "default",
        "device": "cpu",
    }
    best = gpu_peer.measure(job | {"steps": 4, "seconds": 60.0})
    assert best["steps"] == 4 and 0 < best["fastest_ms"] <= best["ms"] and best["loss"] > 0
    best = gpu_peers.in_a_process(sys.executable, job | {"script": "nowhere.py", "steps": 1, "seconds": 1.0}, 60)
    assert best["error"].startswith("FileNotFoundError")


def test_a_missing_library_is_reported_and_can_be_given_as_a_folder(tmp_path):
    missing = gpu_peers.importable(sys.executable, "nonexistent_library", tmp_path / "nonexistent_library")
    assert "No module named 'nonexistent_library'" in missing and "bench/README.md" in missing
    (tmp_path / "nonexistent_library").mkdir()
    (tmp_path / "nonexistent_library/nonexistent_library.py").write_text("")
    assert gpu_peers.importable(sys.executable, "nonexistent_library", tmp_path / "nonexistent_library") == ""


def test_measured_peers_are_kept_and_slow_ones_run_last(tmp_path, monkeypatch):
    asked = []

    def step(python, job, seconds, own):
        asked.append((job["variant"], job["d"]))
        return {"ms": 1.0}

    monkeypatch.setattr(gpu_peers, "in_a_process", step)
    monkeypatch.setattr(gpu_peers, "importable", lambda python, module, own: "" if module == "torch" else "no")
    gpu_peers.measure(run_in(tmp_path), ["tiny"], {})
    assert [variant for variant, _ in asked] == ["eager", "eager", "compiled", "compiled"]
    asked.clear()
    gpu_peers.measure(run_in(tmp_path), ["tiny", "small"], {})
    assert {d for _, d in asked} == {WORKLOADS["small"].d} and len(asked) == 4
    assert len([r for r in run_in(tmp_path).stored("peers")["rows"] if "ms" in r]) == 8


def test_entrants_of_relu_start_with_k_active():
    job = WORKLOADS["tiny"].with_(kind="relu").job()
    batches, start = gpu_peer.start(job, torch.device("cpu"))
    active = (batches[0] @ start["W_enc"].T + start["b_enc"] > 0).sum(1).float().mean()
    assert float(active) == pytest.approx(job["k"], rel=0.1)


@pytest.mark.parametrize("rehearsal", [True, False])
def test_rehearsals_and_measurements_do_not_share_a_folder(tmp_path, capsys, rehearsal):
    run_in(tmp_path, about={**ABOUT, "rehearsal": True} if rehearsal else ABOUT).keep("floor", {"rows": []})
    gpu.parse(["--out", str(tmp_path), *(["--rehearse"] if rehearsal else [])])
    with pytest.raises(SystemExit):
        gpu.parse(["--out", str(tmp_path), *([] if rehearsal else ["--rehearse"])])
    expected = "floor.json is of a rehearsal" if rehearsal else "floor.json is of a GPU"
    assert expected in capsys.readouterr().err
