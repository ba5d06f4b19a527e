"""Every kind as a GPU computes it, in arrays of a given capacity, against its dense definition in float64.

The operations run on the CPU; ``tests/ops/test_kinds_on_device.py`` runs steps by the kernels.
"""

import pytest
import torch
from nn.definitions import loss_and_gradients
from nn.test_kinds import DEAD, HAS_DENSE, KINDS, F, assert_near, batch, made

from monosem.nn import DenseBlocks
from monosem.ops import delayed_stats, gpu
from monosem.ops.capacity import DeadFeatureCapacity, EntryCapacity


@pytest.fixture(autouse=True)
def asynchronous(monkeypatch):
    """Steps are scheduled as on a GPU."""
    monkeypatch.setattr(gpu, "asynchronous", lambda t: True)


def expect(sae, monkeypatch):
    """Make room for every entry, or for every dead feature."""
    if isinstance(sae.capacity, EntryCapacity):
        monkeypatch.setattr(sae.capacity, "_capacity", lambda n: (n * F + 100, 64))
    elif isinstance(sae.capacity, DeadFeatureCapacity):
        sae.capacity.stats_history.fill_(float(F))


def assert_defined(gradients, sae, x):
    """The loss, the statistics and every gradient are those of the definition."""
    loss, f, expected = loss_and_gradients(sae, x, DEAD, 0.5)
    torch.testing.assert_close(gradients.loss.double(), loss, rtol=1e-5, atol=1e-8)
    assert torch.equal(gradients.fired, (f != 0).any(0))
    torch.testing.assert_close(gradients.l0, (f != 0).sum(1).float().mean())
    arrays = gradients.parameters.multiplied()
    assert arrays.keys() == expected.keys()
    for parameter, want in expected.items():
        assert_near(arrays[parameter], want, parameter)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("bias", [0.0, -50.0])
def test_gradients_with_unused_places_equal_those_of_the_definition(monkeypatch, name, bias):
    sae = made(name, bias)
    x = batch(sae)
    for _ in range(2):
        expect(sae, monkeypatch)
        gradients = sae.gradients(x, 0.5, DEAD)
        assert not isinstance(gradients.parameters, DenseBlocks)
        assert_defined(gradients, sae, x)


@pytest.mark.parametrize("name", HAS_DENSE)
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_tokens_encoded_again_have_the_gradients_of_the_definition(monkeypatch, name, form):
    monkeypatch.setattr("monosem.ops.capacity.DENSE_ABOVE", 1.0 if form == "sparse" else 0.01)
    sae = made(name)
    x = batch(sae)
    sae.capacity.expect(most=60, mean=0.1)
    monkeypatch.setattr(sae.capacity, "_capacity", lambda n: (64, 64))
    gradients = sae.gradients(x, 0.5, DEAD)
    assert 0 < gradients.redone <= len(x) and gradients.left_out is None
    assert isinstance(gradients.parameters, DenseBlocks) == (form == "dense")
    assert_defined(gradients, sae, x)


@pytest.mark.parametrize("name", HAS_DENSE)
def test_a_graph_has_the_gradients_of_the_tokens_that_fit(monkeypatch, name):
    sae = made(name)
    x = batch(sae)
    monkeypatch.setattr(sae.capacity, "_capacity", lambda n: (192, 64))
    monkeypatch.setattr(delayed_stats, "capturing", lambda t: True)
    gradients = sae.gradients(x, 0.5, DEAD)
    fits = len(x) - int(gradients.left_out)
    assert 0 < fits < len(x) and gradients.redone == 0
    assert_defined(gradients, sae, x[:fits])
