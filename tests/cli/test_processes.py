"""Several processes on the command line; test_distributed.py trains in them."""

import pytest

import monosem as ms
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


class Mesh:
    def __init__(self, *sizes):
        self.size = sizes.__getitem__


@pytest.mark.parametrize(
    ("sae", "shape", "said"),
    [
        # 4·N·(2·D + K + 1) / 2 bytes; tokens: 4·N·(2·D + 3·K + 1) / 2
        (
            ms.TopKSAE(64, 4096, k=8),
            (1, 2),
            "0.281 MB per step, and has 1/2 of the features; --mesh 2x1: 0.313 MB, and",
        ),
        (ms.TopKSAE(64, 4096, k=8), (2, 1), "each process sends about 0.313 MB per step"),
        # Five reconstructions over features; over tokens five residuals and one input.
        (
            ms.MatryoshkaSAE(64, 512, k=8, prefixes=(32, 64, 128, 256, 512)),
            (1, 2),
            "--mesh 2x1 is likely to be faster: ",
        ),
        (ms.MatryoshkaSAE(64, 65536, k=8, prefixes=(32, 64, 128, 256, 65536)), (1, 2), "and has 1/2 of the features"),
    ],
)
def test_the_mesh_is_explained(sae, shape, said):
    assert said in processes.described(Mesh(*shape), sae, 1024)
