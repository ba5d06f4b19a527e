"""Files that a killed run left half written are removed by the next writer; those of live runs are kept."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import monosem as ms
from monosem.data import parts_of_runs
from monosem.data.folder_lock import folder_lock

KILLED = """
import os, signal, sys
from pathlib import Path
from monosem.data import files
real = os.fsync
def fsync(descriptor):
    if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".part"):
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
files.write_text(Path(sys.argv[1]) / "result.json", "half")
"""


def parts(folder):
    return [p for p in folder.rglob("*") if p.name.endswith(".part")]


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The part that a run left when it was killed before renaming its file."""
    folder = tmp_path_factory.mktemp("killed")
    assert subprocess.run([sys.executable, "-c", KILLED, folder]).returncode == -signal.SIGKILL
    (part,) = parts(folder)
    return part


@pytest.fixture
def killed(left, tmp_path):
    """A folder with that in it."""
    shutil.copy2(left, tmp_path)
    return tmp_path


def test_the_next_writer_removes_parts_of_ended_runs(killed):
    with folder_lock(killed):
        assert not parts(killed)


def test_a_writer_without_a_lock_removes_them_in_every_folder(killed):
    ms.save(ms.TopKSAE(4, 8, 2), killed)
    assert not parts(killed) and sorted(p.name for p in killed.iterdir()) == ["cfg.json", "sae.safetensors"]


def test_a_resumed_run_removes_parts_of_ended_runs(killed):
    ms.Trainer(ms.TopKSAE(4, 8, 2), ms.TrainConfig(batch_size=8, steps=2), killed, progress=False).fit(
        torch.randn(16, 4)
    )
    assert not parts(killed)


def test_parts_of_live_runs_are_kept(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    live = tmp_path / f".codes.npy.{child.pid}@{parts_of_runs._HOST}.part"
    own, other = parts_of_runs.name(tmp_path / "own"), tmp_path / ".x.1@another-machine.part"
    try:
        time.sleep(0.1)
        for path in (live, own, other):
            path.touch()
        parts_of_runs.sweep(tmp_path)
        assert sorted(parts(tmp_path)) == sorted([live, own, other])
    finally:
        child.kill()
        child.wait()
    parts_of_runs.sweep(tmp_path)
    assert sorted(parts(tmp_path)) == sorted([own, other])
    os.utime(other, (1e9, 1e9))  # nobody has written to it for years
    parts_of_runs.sweep(tmp_path)
    assert parts(tmp_path) == [own]


def test_a_reused_process_id_does_not_protect_a_part(tmp_path):
    left = parts_of_runs.name(tmp_path / "x")  # our own number, but from before we were started
    left.touch()
    os.utime(left, (1e9, 1e9))
    (tmp_path / ".ours.part").touch()  # no number: not named by this mechanism
    (tmp_path / "partners.npy").touch()
    parts_of_runs.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".ours.part", "partners.npy"]
