"""The parts of a mesh's shard that one process can check against their definition."""

import pytest
import torch
from safetensors.torch import load_file

from monosem.data import rows_file
from monosem.distributed.wire import Wire
from monosem.ops import SparseCode
from monosem.ops.shard import within
from monosem.train.distributed import mesh
from monosem.train.distributed.mesh_shard import MeshShard, _winners, rows_of


@pytest.fixture
def shard():
    """A mesh of this process alone."""
    return MeshShard(*(Wire(None, torch.device("cpu"), None) for _ in range(3)))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 60])
def test_rows_are_consecutive_and_all(size):
    for total in (1, 2, 7, 51, 64):
        rows = [rows_of(total, size, rank) for rank in range(size)]
        assert torch.cat([torch.arange(total)[r] for r in rows]).tolist() == list(range(total))
        chunks = torch.arange(total).chunk(size)
        assert [r.stop - r.start for r in rows if r.stop > r.start] == [len(chunk) for chunk in chunks]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kth_largest_is_exact(shard, dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2000, generator=generator, dtype=dtype).abs()
    values[::7] = values[3]  # ties
    values[5], values[6] = 0.0, torch.finfo(dtype).tiny
    for k in (1, 2, 17, 300, 1999, 2000):
        assert torch.equal(shard.kth_largest(values, k), values.kthvalue(len(values) - k + 1).values)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_winners_are_those_of_a_sort(k):
    """Candidates of three ranks in descending order, many of them equal, some not active (0)."""
    generator = torch.Generator().manual_seed(k)
    candidates = torch.randint(0, 4, (3, 50, k), generator=generator).float().sort(2, descending=True).values
    counts = _winners(candidates, range(1, k + 1))
    together = candidates.transpose(0, 1).reshape(50, -1)
    order = together.sort(dim=1, descending=True, stable=True).indices[:, :k]
    for rank in range(3):
        chosen = (order // k == rank) & (together.gather(1, order) > 0)
        assert torch.equal(counts[rank], chosen.cumsum(1).int())


def test_not_a_number_is_not_lost():
    candidates = torch.tensor([[[3.0, 1.0]], [[float("nan"), 0.0]]])
    assert _winners(candidates, (1, 2)).tolist() == [[[2, 2]], [[2, 2]]]


def test_the_first_of_equal_entries_stay(shard):
    x = torch.zeros(3, 1)
    shard.share(x)
    code = SparseCode(torch.ones(5), torch.tensor([1, 4, 0, 2, 3]).int(), torch.tensor([0, 2, 2, 5]), 5, x.shape[:1])
    marked = torch.tensor([True, False, True, True, True])
    assert shard.first(marked, code, 2).tolist() == [True, False, True, False, False]
    assert shard.first(marked, code, 4).tolist() == marked.tolist()
    assert not shard.first(marked, code, 0).any()


def test_the_first_tokens_of_a_batch():
    """Of ten tokens on three ranks of the data axis: 4, 3 and 3."""
    found = []
    for rank in range(3):
        wires = [Wire(None, torch.device("cpu"), None) for _ in range(3)]
        wires[1] = type("Data", (), {"size": 3, "rank": rank})()
        one = MeshShard(*wires)
        here = len(one.share(torch.zeros(10, 1)))
        found.append([one.among_first(here, limit) for limit in (0, 2, 4, 6, 9, 50)])
    assert found == [[0, 2, 4, 4, 4, 4], [0, 0, 0, 2, 3, 3], [0, 0, 0, 0, 2, 3]]


def test_entries_among_the_largest(shard):
    values, offsets = torch.tensor([3.0, -2.0, 2.0, 5.0]), torch.tensor([0, 3, 3, 4])
    assert shard.among_largest(values, offsets, (1, 2, 3)).tolist() == [[1, 2, 3], [0, 0, 0], [1, 1, 1]]


def test_prefixes_within_a_shard():
    assert within((5, 20, 51), slice(0, 26)) == (5, 20, 26)
    assert within((5, 20, 51), slice(26, 51)) == (0, 0, 25)


def test_a_file_is_written_by_rows(tmp_path):
    path = tmp_path / "weights.safetensors"
    whole = torch.randn(7, 3)
    others = {"b": torch.randn(4, dtype=torch.float64), "n": torch.tensor(2.5).bfloat16()}
    rows_file.create(path, {"w": (whole.dtype, [7, 3]), **{n: (t.dtype, list(t.shape)) for n, t in others.items()}})
    for part in (slice(4, 7), slice(0, 4)):
        rows_file.write(path, "w", part.start, whole[part])
    for name, tensor in others.items():
        rows_file.write(path, name, 0, tensor)
    read = load_file(path)
    assert torch.equal(read["w"], whole)
    assert all(torch.equal(read[name], tensor) for name, tensor in others.items())


@pytest.mark.parametrize("text", ["4", "2x", "0x2", "2x2x2", "axb"])
def test_a_mesh_that_is_none(text):
    with pytest.raises(ValueError, match=f"mesh: got '{text}'; wanted DATAxFEATURES"):
        mesh.parse(text)
