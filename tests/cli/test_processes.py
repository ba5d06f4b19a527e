"""Several processes on the command line; test_distributed.py trains in them."""

import pytest

from monosem.cli import processes
from monosem.cli.main import main


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--mesh", "1x2"], "--mesh: got 1x2 in a single process; wanted several that torchrun starts: torchrun "),
        (["--peer-timeout", "5"], "--peer-timeout: got 5.0; it has no effect in a single process"),
    ],
)
def test_options_of_several_processes_in_a_single_one(capsys, monkeypatch, tmp_path, option, said):
    monkeypatch.delenv("RANK", raising=False)
    assert main(["train", "--out", str(tmp_path / "run"), *option]) == 2
    assert said in capsys.readouterr().err


def test_a_gpu_for_each_process(monkeypatch):
    assert processes.device_of("cuda") == "cuda"
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert processes.device_of("cuda") == "cuda:1"
    assert processes.device_of("cpu") == "cpu"
