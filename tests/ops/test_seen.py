"""A tensor that was seen is told from another at its address."""

import copy
import pickle

import torch

from monosem.ops.seen import Seen


def test_changes_and_other_tensors_are_noticed():
    t = torch.zeros(8)
    seen = Seen(t)
    assert seen.is_still(t) and seen.is_still(t.detach()) and not seen.is_still(t.clone())
    t.add_(1)
    assert not seen.is_still(t) and not Seen().is_still(t)


def test_memory_that_was_seen_is_not_given_to_another():
    """The allocator gives freed memory out again at once, to a tensor that was never changed in place either."""
    parameter = torch.nn.Parameter(torch.ones(1000))
    seen, addresses = Seen(parameter), set()
    first = parameter.data_ptr()
    for _ in range(200):
        parameter.data = parameter.data.double()
        parameter.data = parameter.data.half().float()
        addresses.add(parameter.data_ptr())
        assert not seen.is_still(parameter)
    assert first not in addresses and len(addresses) < 200  # addresses do come again


def test_a_copy_has_seen_nothing():
    t = torch.zeros(8)
    for other in (copy.deepcopy(Seen(t)), pickle.loads(pickle.dumps(Seen(t)))):
        assert not other.is_still(t)
