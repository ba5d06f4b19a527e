import json
import sys
from pathlib import Path

import pytest

from monosem.bench import rounds, worker
from monosem.bench.rounds import MONOSEM, Entrant, Failed, Row, Worker, groups, interleave
from monosem.bench.workloads import WORKLOADS, Workload

# A library whose variant decides its behaviour, and which prints to the channel of the protocol.
FAKE = """
import os, time
class Fake:
    packages, notes = ["numpy"], ["is a fake"]
    def __init__(self, job): self.job, self.seen = job, []
    def step(self, x):
        print("a library that prints to stdout")
        self.seen.append(float(x))
        if self.job["variant"] == "raises": raise ValueError("step: not today\\nand more")
        if self.job["variant"] == "dies": os._exit(3)
        return 0.5
    def evaluate(self, x):
        return {"mse": 0.25, "l0": len(self.seen)}
    def run(self):
        if self.job["variant"] == "sleeps": time.sleep(60)
        return {"seconds": 2.0, "tokens": 100, "precision": self.job["precision"]}
def build(job, weights):
    print("building")
    return Fake(job)
"""


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    path = tmp_path_factory.mktemp("fake") / "fake.py"
    path.write_text(FAKE)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp("data") / "data.pt"
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    torch.save({"batches": torch.arange(4.0), "held_out": torch.zeros(()), **dict.fromkeys(names, torch.ones(2))}, path)
    return path


def test_entrants_alternate_and_one_failure_does_not_stop_the_others(fake, data):
    variants = ("", "raises", "dies", "")
    rows = [Row(Entrant(v or "good", fake, variant=v)) for v in variants]
    rows.append(Row(Entrant("absent", fake, missing="its environment is not set up")))
    messages = []
    interleave(rows, {"data": str(data), "threads": 1}, rounds=3, budget=60, timeout=60, say=messages.append)
    good, raises, dies, other, absent = rows
    assert [len(r) for r in good.seconds] == [2, 2, 2] and not good.error
    # Three to warm up, and in each round one untimed (the steps are short) and two timed.
    assert good.evaluation == {"mse": 0.25, "l0": 3 + 3 * 3} and good.loss == 0.5
    assert good.ready["notes"] == ["is a fake"] and set(good.ready["versions"]) == {"torch", "numpy"}
    assert raises.error == "ValueError: step: not today"
    assert "ended with status 3" in dies.error
    assert not other.error and absent.error == "its environment is not set up"
    first = [next(s for s in messages if s.startswith(f"round {n}/3")) for n in (1, 2, 3)]
    assert first == ["round 1/3: good", "round 2/3: good", "round 3/3: good"], "the order rotates by one per round"


def test_a_silent_worker_is_stopped(fake, tmp_path):
    with Worker(Entrant("slow", fake, "bf16", "sleeps"), {"threads": 1}, tmp_path) as slow:
        assert slow.answer(60)["notes"] == ["is a fake"]
        with pytest.raises(Failed, match="no answer within 1 s"):
            slow.ask(1, "run")
        assert slow.process.poll() is not None
    assert "building" in slow.log.read_text()
    with Worker(Entrant("quick", fake, "bf16"), {"threads": 1}, tmp_path, 1) as quick:
        quick.answer(60)
        messages = quick.ask(60, "run")
        assert messages["precision"] == "bf16" and messages["tokens"] == 100


def test_a_nan_reconstruction_is_an_error():
    class Says:
        def ask(self, timeout, do):
            return {"mse": float("nan"), "l0": 1.0}

    with pytest.raises(Failed, match="not a number"):
        rounds._evaluate(Row(MONOSEM), Says(), 1.0)


def test_an_entrant_that_cannot_start_reports_the_reason(fake, tmp_path):
    with pytest.raises(Failed, match="not set up"):
        Worker(Entrant("absent", fake, missing="not set up"), {"threads": 1}, tmp_path)
    with Worker(Entrant("no such file", tmp_path / "none.py"), {"threads": 1}, tmp_path, 1) as broken:
        with pytest.raises(Failed, match="FileNotFoundError"):
            broken.answer(60)


def test_entrants_are_grouped_by_available_memory():
    everyone = [Entrant(name, rounds.WORKER) for name in ("ours", "a", "b", "c", "d")]
    small, wide = WORKLOADS["small"], WORKLOADS["widest"]
    assert groups(everyone, small, 64 << 30) == [everyone]
    pairs = groups(everyone, wide, 24 << 30)
    assert [[e.name for e in g] for g in pairs] == [["ours", x] for x in "abcd"], "at worst each beside ours"
    assert groups(everyone[:1], wide, 1 << 30) == [everyone[:1]]


def test_allocating_more_than_the_machine_has_is_an_error(tmp_path):
    if worker.status("VmData") is None:
        pytest.skip("limits need /proc")
    greedy = tmp_path / "greedy.py"
    greedy.write_text("def build(job, weights): return bytearray(1 << 44)\n")
    with Worker(Entrant("greedy", greedy), {"threads": 1}, tmp_path) as process, pytest.raises(Failed) as error:
        process.answer(60)
    assert "Memory" in str(error.value)


def test_pages_of_a_waiting_worker_are_locked_where_that_is_permitted(fake, tmp_path):
    if worker.status("VmLck") is None:
        pytest.skip("limits need /proc")
    with Worker(Entrant("fake", fake), {"threads": 1, "data": ""}, tmp_path) as process:
        process.answer(60)
        lines = Path(f"/proc/{process.process.pid}/status").read_text().splitlines()
        locked = next(int(line.split()[1]) for line in lines if line.startswith("VmLck:"))
    assert (locked > 0) == worker.locking_is_unlimited()


def test_titles():
    e = Entrant("PyTorch", rounds.WORKER, "bf16", "eager")
    assert e.title == "PyTorch eager bf16" and str(e.python) == sys.executable
    json.dumps(Workload(1, 1, 1, 1).to_json())


HEAVY = """
import torch
class Heavy:
    packages = []
    def __init__(self, weights): self.state = torch.ones(16 << 20) * weights["W_enc"].sum()
    def step(self, x):
        torch.ones(len(x)).mul_(2.0)
        return 0.5
def build(job, weights):
    return Heavy(weights)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are counted anew on Linux only")
@pytest.mark.parametrize("megabytes", [0, 96])
def test_peak_memory_is_of_state_and_step_and_not_of_the_data(tmp_path, megabytes):
    import torch

    size = megabytes << 18  # numbers
    script, data = tmp_path / "heavy.py", tmp_path / "data.pt"
    script.write_text(HEAVY)
    weights = {"W_enc": torch.ones(8 << 20), "W_dec": torch.ones(2), "b_enc": torch.ones(2), "b_dec": torch.ones(2)}
    torch.save({"batches": torch.ones(2, max(1, size)), "held_out": torch.ones(2), **weights}, data)
    with Worker(Entrant("heavy", script), {"threads": 1, "data": str(data)}, tmp_path) as process:
        process.answer(60)
        peak = process.ask(60, "steps", first=0, count=2)["peak_bytes"]
    # 64 MiB of state and the memory of a step, without the batches and the 32 MiB of weights that the state began from.
    assert peak / 2**20 == pytest.approx(64 + megabytes, abs=16)
