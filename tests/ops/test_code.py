"""What a code says of itself, and what makes it no code."""

import pytest
import torch

from monosem import ops
from monosem.ops import SparseCode
from monosem.ops.layout import checked_code

F = 7


def uniform(values):
    values = torch.tensor(values)
    indices = torch.arange(values.numel(), dtype=torch.int32).mul(3).remainder(F - 1).view(values.shape)
    return SparseCode(values, indices, None, F, values.shape[:-1])


def rows(values, indices, offsets):
    return SparseCode(
        torch.tensor(values), torch.tensor(indices, dtype=torch.int32), torch.tensor(offsets), F, torch.Size([2])
    )


CODES = {
    "uniform": uniform([[3.0, 0.0], [-2.0, 0.5], [0.0, 0.0]]),
    "a token alone": uniform([1.0, 0.0, 2.5]),
    "leading shape": uniform([[[1.0], [0.0]], [[4.0], [1e-30]]]),
    "not a number": uniform([[torch.nan, 1.0], [0.0, torch.inf]]),
    "strided": SparseCode(*(t.T for t in (torch.rand(4, 3), torch.randint(F, (4, 3)).int())), None, F, torch.Size([3])),
    "rows": rows([0.5, 0.0, -1.0], [6, 0, 6], [0, 1, 3]),
    "no entry": rows([], [], [0, 0, 0]),
    "room behind the last entry": rows([0.5, 2.0, 0.0, 0.0], [1, 2, F, F], [0, 1, 2]),
    "no token": SparseCode(torch.empty(0, 2), torch.empty(0, 2, dtype=torch.int32), None, F, torch.Size([0])),
    "float64": SparseCode(torch.rand(3, 2).double(), torch.zeros(3, 2, dtype=torch.int32), None, F, torch.Size([3])),
    "bfloat16": SparseCode(torch.rand(3, 2).bfloat16(), torch.zeros(3, 2, dtype=torch.int32), None, F, torch.Size([3])),
}


@pytest.mark.parametrize("name", CODES)
def test_its_statistics_in_one_pass_are_those_of_their_definitions(name):
    code = CODES[name]
    l0, l1, fired = code.statistics()
    torch.testing.assert_close(l0, code.l0(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(l1, code.l1(), equal_nan=True)
    assert torch.equal(fired, code.fired())
    active = code.indices.flatten()[code.values.flatten() != 0].long()
    assert fired.nonzero()[:, 0].tolist() == sorted(set(active.tolist()))


def test_what_is_differentiable_stays_so():
    values = torch.rand(3, 2, requires_grad=True)
    code = SparseCode(values, torch.zeros(3, 2, dtype=torch.int32), None, F, torch.Size([3]))
    code.statistics()[1].backward()
    torch.testing.assert_close(values.grad, torch.full((3, 2), 1 / 3))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("indices", "offsets", "message"),
    [
        ([0, F], [0, 1, 2], "indices: got features 0 to 7; wanted 0 to 6"),
        ([-1, 3], [0, 1, 2], "indices: got features -1 to 3; wanted 0 to 6"),
        ([0, 3, 1], [0, 2, 1, 3], "offsets: got 0 … 3; wanted ascending from 0 to 3"),
        ([0, 3], [1, 1, 2], "offsets: got 1 … 2; wanted ascending from 0 to 2"),
        ([0, 3], [0, 1, 3], "offsets: got 0 … 3; wanted ascending from 0 to 2"),
        ([], [0, 1, 0], "offsets: got 0 … 0; wanted ascending from 0 to 0"),
    ],
)
def test_entries_that_point_elsewhere_are_refused(indices, offsets, message, dtype):
    with pytest.raises(IndexError, match=message):
        checked_code(torch.tensor(indices, dtype=torch.int32), torch.tensor(offsets).to(dtype), F)


def test_a_code_of_no_entry_and_one_with_room_are_codes():
    for indices, offsets in (([], [0]), ([], [0, 0, 0]), ([2, 1, F, F], [0, 1, 2])):
        i, o, n = checked_code(torch.tensor(indices, dtype=torch.int32), torch.tensor(offsets), F)
        assert (len(i), n) == (len(indices), len(offsets) - 1) and torch.equal(o, torch.tensor(offsets))
    assert ops.csc(torch.empty(0, dtype=torch.int32), torch.tensor([0]), F)[0].tolist() == [0] * (F + 1)
