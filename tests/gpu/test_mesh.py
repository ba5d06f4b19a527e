"""Training on a mesh of GPUs, over NCCL: the same weights as on one."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from monosem.distributed import wire
from monosem.train.distributed import mesh

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
_spec = importlib.util.spec_from_file_location("mesh_worker", Path(__file__).with_name("mesh_worker.py"))
worker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worker)
CLOSE = 1e-4  # of the largest weight, after 20 steps: sums are added in another order, with the GPU's products


def far(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture
def joined():
    """This process alone, joined by NCCL with itself."""
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1, timeout=wire.timeout_of(60))
    yield mesh.make((1, 1), "cuda")
    dist.destroy_process_group()


@pytest.mark.skipif(not GPUS, reason="no GPU on this machine")
@pytest.mark.parametrize("kind", list(worker.MAKE))
def test_a_mesh_of_one(joined, kind):
    ours = worker.rows(worker.trained(kind, "cuda", joined).dictionary())
    theirs = worker.rows(worker.trained(kind, "cuda").dictionary())
    for name, (parameter, _) in ours.items():
        assert far(parameter, theirs[name][0]) < CLOSE, name


@pytest.mark.skipif(not GPUS, reason="no GPU on this machine")
def test_nccl_sends_what_the_wire_gives_it(joined):
    """As bytes, of any type."""
    for dtype in (torch.float32, torch.int64, torch.bfloat16):
        given = torch.arange(12, device="cuda").view(1, 12).to(dtype)
        got = torch.empty_like(given)
        dist.all_to_all_single(wire._bytes(got), wire._bytes(given))
        assert torch.equal(got, given)
        gathered = torch.empty_like(given)
        wire._all_gather(wire._bytes(gathered), wire._bytes(given))
        assert torch.equal(gathered, given)


@pytest.mark.skipif(GPUS < 2, reason="no second GPU on this machine")
def test_two_gpus_train_as_one(tmp_path):
    check(tmp_path, "cuda")


def check(folder, device):
    command = [sys.executable, str(worker.__file__), str(folder)]
    started = [subprocess.Popen([*command, str(rank), "2", device]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    records = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for (shape, kind), first in records[0].items():
        theirs = worker.rows(worker.trained("topk" if kind == "resumed" else kind, device).dictionary())
        for name, (parameter, per_feature) in first.items():
            parts = [record[shape, kind][name][0] for record in records[: shape[1]]]
            whole = torch.cat(parts) if per_feature else parameter
            assert far(whole, theirs[name][0]) < CLOSE, (shape, kind, name)
        if kind == "resumed":
            same = [torch.equal(first[name][0], records[0][shape, "topk"][name][0]) for name in first]
            assert all(same), "resumed bit for bit"
