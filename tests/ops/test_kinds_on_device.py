"""Every kind's step by the Triton kernels, against its dense definition in float64 and ``torch.optim.Adam``."""

import copy

import pytest
import torch
from nn import test_kinds
from nn.definitions import loss_and_gradients
from nn.test_kinds import HAS_DENSE, KINDS, assert_near, force

from monosem.ops import gpu
from monosem.ops.capacity import DeadFeatureCapacity, EntryCapacity
from monosem.train.step import FastStep

pytestmark = pytest.mark.usefixtures("device", "triton_only")
N, D, F = 5, 15, 35
# A step of Adam with this eps moves an element by lr·g/(|g| + eps): its error is at most that of g times lr/eps, here
# 1. With a small eps the rounding of a gradient near 0 decides the sign of a whole step.
LR = EPS = 1.0
SCHEDULES = [(name, "within capacities") for name in KINDS]  # as on a GPU, in arrays of a given size
SCHEDULES += [(name, "called") for name in KINDS if name in HAS_DENSE or name == "batch_topk"]  # of the size needed
SCHEDULES += [(name, "dense") for name in HAS_DENSE]


@pytest.fixture(autouse=True)
def odd_sizes(monkeypatch):
    monkeypatch.setattr(test_kinds, "D", D)
    monkeypatch.setattr(test_kinds, "F", F)


def made(name):
    sae = test_kinds.made(name)
    sae.normalize_decoder()
    return sae


def schedule(sae, form, monkeypatch):
    """Have the next step run in this form; but for "within capacities" the host may wait for the device."""
    force(sae, form)
    monkeypatch.setattr(gpu, "asynchronous", lambda t: form == "within capacities")
    if form != "within capacities":
        return
    if isinstance(sae.capacity, EntryCapacity):
        monkeypatch.setattr(sae.capacity, "_capacity", lambda n: (n * F + 64, 64))
    elif isinstance(sae.capacity, DeadFeatureCapacity):
        sae.capacity.stats_history.fill_(float(F))


def updated(sae, gradients):
    """The parameters in float64 after one step of ``torch.optim.Adam`` with these gradients, and both moments."""
    exact = copy.deepcopy(sae).double()
    for name, p in exact.named_parameters():
        p.grad = gradients[name].clone()
    exact.project_decoder_gradient()
    groups = [{"params": [p], "lr": LR * exact.declared()[n].lr_factor} for n, p in exact.named_parameters()]
    adam = torch.optim.Adam(groups, eps=EPS)
    adam.step()
    exact.normalize_decoder()
    moments = {name: adam.state[p] for name, p in exact.named_parameters()}
    return {name: p.detach() for name, p in exact.named_parameters()}, moments


@pytest.mark.parametrize(("name", "form"), SCHEDULES)
def test_a_step_is_that_of_the_definition_and_adam(name, form, device, monkeypatch):
    with torch.device("cpu"):
        sae = made(name)
        x, dead = test_kinds.batch(sae, N), torch.arange(F) % 3 == 0
        loss, f, gradients = loss_and_gradients(sae, x, dead, 0.5)
        weights, moments = updated(sae, gradients)
    sae = sae.to(device)
    schedule(sae, form, monkeypatch)
    step = FastStep(sae, eps=EPS)
    out = step(x.to(device), LR, 0.5, dead=dead.to(device))
    torch.testing.assert_close(out.loss.cpu().double(), loss, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(out.l0.cpu(), (f != 0).sum(1).float().mean())
    assert torch.equal(out.fired.cpu(), (f != 0).any(0)) and out.left_out is None and not out.redone
    for parameter, p in sae.named_parameters():
        # After one step the first moment is a tenth of the gradient, and the second a thousandth of its square.
        assert_near(step.m[parameter].cpu(), moments[parameter]["exp_avg"], f"gradient of {parameter}")
        assert_near(step.v[parameter].cpu(), moments[parameter]["exp_avg_sq"], f"squared gradient of {parameter}")
        assert_near(p.detach().cpu(), weights[parameter], parameter)
