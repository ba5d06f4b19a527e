"""Files: permissions, disk space allocated before mapping, and the error of a full disk."""

import errno
import os

import numpy as np
import pytest
import torch

from monosem.data import files


def test_written_files_have_ordinary_permissions(tmp_path):
    files.write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_new_memory_map_is_allocated_on_disk(tmp_path):
    array = files.new_map(tmp_path / "a.npy", np.dtype(np.float32), (1 << 18,))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 1 << 20
    array[:] = 3
    array.flush()
    assert (np.load(tmp_path / "a.npy") == 3).all()
    assert len(files.new_map(tmp_path / "b.npy", np.dtype(np.int32), (0,))) == 0


def test_a_full_disk_error_states_the_bytes_needed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "allocate", full)
    with pytest.raises(OSError, match=r"a\.npy', which needs 4 kB \(No space left on device\)"):
        files.new_map(tmp_path / "a.npy", np.dtype(np.float32), (1000,))
    assert not list(tmp_path.iterdir())


def test_rows_are_written_as_they_come(tmp_path):
    buffer = np.zeros((2, 3), np.uint16)

    def blocks():
        for i in range(4):
            buffer[:] = i  # a block that was kept instead of written would be overwritten
            yield buffer[: 1 + i % 2]

    files.write_rows(tmp_path / "rows.npy", blocks(), np.uint16, 3)
    got = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert got.dtype == np.uint16 and got[:, 0].tolist() == [0, 1, 1, 2, 3, 3] and (got == got[:, :1]).all()
    files.write_rows(tmp_path / "none.npy", iter(()), np.int32, 5)
    assert np.load(tmp_path / "none.npy").shape == (0, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["none.npy", "rows.npy"]


def test_rows_that_end_in_an_error_leave_what_was_there(tmp_path):
    files.write_rows(tmp_path / "rows.npy", iter([np.ones((2, 3))]), np.uint16, 3)

    def broken():
        yield np.zeros((5, 3))
        raise ValueError("text: line 7")

    with pytest.raises(ValueError, match="line 7"):
        files.write_rows(tmp_path / "rows.npy", broken(), np.uint16, 3)
    assert np.load(tmp_path / "rows.npy").sum() == 6 and [p.name for p in tmp_path.iterdir()] == ["rows.npy"]


def test_disk_space_is_allocated_without_posix_fallocate(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    array = files.new_map(tmp_path / "a.npy", np.dtype(np.float32), (1 << 19,))
    assert array.shape == (1 << 19,) and not array.any()
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 1 << 21
