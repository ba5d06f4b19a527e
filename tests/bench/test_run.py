import json

import environments
import peers
import run

from monosem.bench import machine
from monosem.bench.workloads import WORKLOADS


def test_a_stored_result_is_used_again_only_for_the_same_request_and_commit(tmp_path):
    path = tmp_path / "a.json"
    request = {"rounds": 3, "workload": {"n": 1}, "values": [1, 2]}
    path.write_text(json.dumps({"request": request, "machine": {"commit": "abc"}}))
    assert run.will_do(path, request, "abc")
    assert not run.will_do(path, request | {"rounds": 4}, "abc")
    assert not run.will_do(path, request, "def") and not run.will_do(path, request, None)
    path.write_text(json.dumps({"request": request, "machine": {"commit": "abc-dirty"}}))
    assert not run.will_do(path, request, "abc-dirty"), "what was changed has no name"
    path.write_text("{ cut off")
    assert not run.will_do(path, request, "abc") and not run.will_do(tmp_path / "none", request, "abc")


def test_sections_have_unique_names_and_json_requests():
    for full, quick in ((False, False), (True, False), (False, True)):
        sections = run.sections(full, quick, {}, print)
        names = [name for name, _, _ in sections]
        assert len(set(names)) == len(names)
        assert {n.split(".")[0] for n in names} == {
            "train_step",
            "operations",
            "losses",
            "instruction_sets",
            "growth",
            "end_to_end",
        }
        json.dumps([request for _, request, _ in sections])
    assert run._doubling(4096, 524_288) == [4096 << i for i in range(8)]


def test_every_library_is_an_entrant_and_a_missing_one_has_a_reason(monkeypatch):
    monkeypatch.setattr(environments, "FOLDER", environments.HERE / "not there")
    topk = peers.entrants(WORKLOADS["tiny"], bf16=False)
    assert [e.title for e in topk] == [
        "monosem",
        "PyTorch eager",
        "PyTorch compiled",
        "SAELens dense",
        "SAELens sparse",
        "dictionary_learning",
        "sparsify",
    ]
    assert all("bench/environments.py" in e.missing for e in topk[3:]) and not any(e.missing for e in topk[:3])
    both = [e.title for e in peers.entrants(WORKLOADS["tiny"].of("relu"), bf16=True)]
    assert both == [
        "monosem",
        "PyTorch eager",
        "PyTorch compiled",
        "SAELens",
        "dictionary_learning",
        "PyTorch eager bf16",
        "PyTorch compiled bf16",
        "SAELens bf16",
        "dictionary_learning bf16",
    ]
    failed = peers.entrants(WORKLOADS["tiny"], bf16=False, errors={"sparsify": "no network"})
    assert failed[-1].missing == "no network"


def test_the_pins_are_complete_and_leave_pytorch_alone():
    for name in environments.NAMES:
        lines = (environments.HERE / "environments" / f"{name}.txt").read_text().split()
        assert lines and all("==" in line for line in lines), name
        assert not any(line.lower().startswith("torch==") for line in lines), name


def test_result_folder_is_named_after_the_machine():
    machine_facts = {"cpu": "AMD EPYC (x)", "isa": ["avx2"], "threads": 2}
    assert run.folder_name(machine_facts) == "amd-epyc-x-avx2-2-threads"
    assert run.folder_name(machine.describe() | {"isa": []}).endswith("threads")
