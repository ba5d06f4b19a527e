"""Encoder rows that are quantised once: the same codes, and void as soon as the weights change."""

import copy

import pytest
import torch

import monosem as ms
from monosem import ops
from monosem.ops import backend
from monosem.train.step import FastStep

D, F = 40, 300
KINDS = {
    "topk": lambda: ms.TopKSAE(D, F, 5, seed=0),
    "relu": lambda: ms.ReLUSAE(D, F, 1e-3, seed=0),
    "jumprelu": lambda: ms.JumpReLUSAE(D, F, initial_threshold=1.5, seed=0),
    "batch_topk": lambda: ms.BatchTopKSAE(D, F, 5, seed=0),
    "gated": lambda: ms.GatedSAE(D, F, seed=0),
}


@pytest.fixture(autouse=True, params=["int8", "int16", "fp32"])
def product(request, monkeypatch):
    monkeypatch.setattr(backend, "cpu_product", lambda: request.param)
    return request.param


def batch(n=9, seed=1):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    return all(torch.equal(s, t) for s, t in zip(a.csr(), b.csr(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_the_same(kind, product):
    sae, x = KINDS[kind](), batch()
    before = sae.encode(x)
    assert sae.prepare() is sae and (sae.prepared() is None) == (product == "fp32")
    assert same(sae.encode(x), before) and same(sae.encode(x[0]), KINDS[kind]().encode(x[0]))


@pytest.mark.parametrize("product", ["int8"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        lambda sae: FastStep(sae)(batch(50), 1e-2),
        lambda sae: sae.W_enc_rows.detach().mul_(-1.0),
        lambda sae: setattr(sae, "W_enc_rows", torch.nn.Parameter(-sae.W_enc_rows.detach())),
        lambda sae: sae.load_state_dict(ms.TopKSAE(D, F, 5, seed=3).state_dict()),
        lambda sae: sae.restart_features(torch.arange(100), batch(100), torch.ones(F, dtype=torch.bool), 0.2),
        lambda sae: sae.double().float(),
    ],
    ids=["step", "in place", "assigned", "loaded", "restarted", "converted"],
)
def test_a_change_of_the_weights_makes_it_void(product, change):
    sae, x = ms.TopKSAE(D, F, 5, seed=0).prepare(), batch()
    change(sae)
    assert same(sae.encode(x), copy.deepcopy(sae).encode(x)) and sae.prepared() is None


@pytest.mark.parametrize("product", ["int8"], indirect=True)
def test_rows_are_quantised_once(product, monkeypatch):
    sae, x = ms.TopKSAE(D, F, 5, seed=0), batch()
    calls, quantize = [], backend.native.quantize

    class Counted:
        def __getattr__(self, name):
            if name == "quantize":
                return lambda **k: calls.append(k["tokens"]) or quantize(**k)
            return getattr(backend.native, name)

    monkeypatch.setattr("monosem.ops.selection.cpu_integers._C", Counted())
    sae.encode(x)
    assert calls.count(False) == 1
    sae.prepare()
    for _ in range(3):
        sae.encode(x)
    assert calls.count(False) == 2


@pytest.mark.parametrize("product", ["int8"], indirect=True)
def test_rows_rounded_for_another_bound_are_not_used(product, monkeypatch):
    sae, x = ms.TopKSAE(D, F, 5, seed=0), batch()
    wanted = sae.encode(x)
    for certain in (True, False):
        monkeypatch.setattr(backend, "certain", lambda c=certain: c)
        sae.prepare()
        monkeypatch.setattr(backend, "certain", lambda c=certain: not c)
        assert same(sae.encode(x), wanted)


def test_what_is_no_matrix_is_refused(product):
    with pytest.raises(ValueError, match="w: got shape"):
        ops.encoder_copy(torch.ones(3))
