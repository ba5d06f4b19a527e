"""Modules of other libraries with sparse methods, against their own dense ones."""

import copy
import pickle
import sys
import types

import pytest
import torch
from drop_in.peers import DICTIONARY_LEARNING, SAE_LENS, SPARSIFY

import monosem as ms
from monosem.drop_in import METHODS
from monosem.drop_in.activations import Activations

D, F, N = 9, 37, 50

SETTINGS = {
    "BatchTopKTrainingSAE": {"k": 3.7, "rescale_acts_by_decoder_norm": True},
    "TopKTrainingSAE": {"rescale_acts_by_decoder_norm": True},
}
CLASSES = [
    getattr(module, name)
    for module in (DICTIONARY_LEARNING, SAE_LENS)
    for name in vars(module)
    if name in METHODS[module.__name__.split(".")[0]]
]
IDS = [cls.__name__ for cls in CLASSES]


def build(cls):
    return cls(D, F, **SETTINGS.get(cls.__name__, {}))


def batch(seed=3, shape=(N,)):
    return torch.randn(*shape, D, generator=torch.Generator("cpu").manual_seed(seed))


def trained(module, x, **how):
    """The loss of a reconstruction with an L1 term, after its gradient was taken."""
    f = module.encode(x, **how)
    f, others = (f[0], f[1:]) if isinstance(f, tuple) else (f, ())
    loss = (module.decode(f) - x).square().sum(-1).mean() + 0.1 * f.norm(p=1, dim=-1).mean()
    loss.backward()
    return loss.detach(), f, others


@pytest.mark.parametrize("cls", CLASSES, ids=IDS)
def test_values_and_gradients_are_those_of_the_library(cls):
    theirs, x = build(cls), batch()
    ours = ms.accelerate(copy.deepcopy(theirs))
    mine = x.clone().requires_grad_()
    their = x.clone().requires_grad_()
    loss, f, _ = trained(ours, mine)
    wanted, dense, _ = trained(theirs, their)
    assert isinstance(f, Activations) and f.is_lazy, "nothing of tokens × features was made"
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(f.dense(), dense)
    torch.testing.assert_close(mine.grad, their.grad, rtol=1e-4, atol=1e-5)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if b.grad is None or a.grad is None:  # no gradient, or one of zeros
            assert a.grad is None or not a.grad.any(), name
            assert b.grad is None or not b.grad.any(), name
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


WAYS = {
    "AutoEncoderTopK": [{"return_topk": True}, {"use_threshold": True}, {"return_topk": True, "use_threshold": True}],
    "BatchTopKSAE": [{"return_active": True, "use_threshold": False}, {"use_threshold": True}],
    "MatryoshkaBatchTopKSAE": [{"return_active": True, "use_threshold": False}, {"return_active": True}],
    "GatedAutoEncoder": [{"return_gate": True}, {"normalize_decoder": True}],
    "JumpReluAutoEncoder": [{"output_pre_jump": True}],
}


@pytest.mark.parametrize(
    ("name", "how"),
    [(n, how) for n, ways in WAYS.items() for how in ways],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_all_ways_of_encoding(name, how):
    theirs, x = build(getattr(DICTIONARY_LEARNING, name)), batch()
    theirs.get_buffer("threshold").fill_(0.2) if "threshold" in dict(theirs.named_buffers()) else None
    ours = ms.accelerate(theirs)
    found, wanted = ours.encode(x, **how), theirs.encode(x, **how)
    for a, b in zip(*((f if isinstance(f, tuple) else (f,)) for f in (found, wanted)), strict=True):
        if how.get("return_topk") and b.shape != (N, F):  # the largest and their indices, in any order
            a, b = a.sort(-1).values, b.sort(-1).values
        torch.testing.assert_close(a + 0, b + 0)


@pytest.mark.parametrize("cls", CLASSES, ids=IDS)
def test_the_librarys_optimizer_trains_both(cls):
    """The parameters are the same objects, under the same names."""
    theirs = build(cls)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    ours = ms.accelerate(theirs)
    assert type(ours).__name__ == cls.__name__ and isinstance(ours, cls) and type(theirs) is cls
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert all(a is b for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    before = float(trained(ours, batch())[0])
    for _ in range(20):
        optimizer.zero_grad()
        trained(ours, batch())
        optimizer.step()
    assert float(trained(theirs, batch())[0]) < before
    assert ours.state_dict().keys() == theirs.state_dict().keys(), "the guess of BatchTopK's threshold is not saved"


@pytest.mark.parametrize("name", ["TopKTrainingSAE", "BatchTopKTrainingSAE", "StandardTrainingSAE"])
def test_tokens_of_several_dimensions_and_hooks(name):
    theirs = build(getattr(SAE_LENS, name))
    ours, x = ms.accelerate(theirs), batch(shape=(4, 5))
    seen = []
    handle = theirs.hook_sae_acts_post.register_forward_hook(lambda _, __, f: seen.append(f) or f * 2)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(seen[0] + 0, seen[1])
    handle.remove()
    theirs.hook_sae_acts_pre.register_forward_hook(lambda _, __, h: h + 0.3)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("transcode", [False, True])
def test_a_coder_of_sparsify_with_its_auxiliary_losses(transcode):
    theirs, x = SPARSIFY.SparseCoder(D, F, transcode), batch()
    ours = ms.accelerate(copy.deepcopy(theirs))
    dead = torch.arange(F) % 4 == 1
    losses = [module(x, dead) for module in (ours, theirs)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    output = ours.encode(x)
    assert type(output).__name__ == "EncoderOutput" and output.pre_acts.is_lazy
    torch.testing.assert_close(output.pre_acts + 0, theirs.encode(x).pre_acts, rtol=1e-4, atol=1e-4)


def test_another_activation_of_sparsify_runs_its_own_method():
    theirs = SPARSIFY.SparseCoder(D, F, activation="groupmax")
    assert not isinstance(ms.accelerate(theirs).encode(batch()).pre_acts, Activations)
    torch.testing.assert_close(ms.accelerate(theirs).encode(batch()).top_acts, theirs.encode(batch()).top_acts)


def test_copies_and_pickles_are_accelerated_again(monkeypatch):
    monkeypatch.setitem(sys.modules, "dictionary_learning", types.ModuleType("dictionary_learning"))
    ours = ms.accelerate(build(DICTIONARY_LEARNING.AutoEncoder))
    for made in (copy.deepcopy(ours), copy.copy(ours), pickle.loads(pickle.dumps(ours))):
        assert isinstance(made.encode(batch()), Activations)
    assert copy.deepcopy(ours).bias is not ours.bias
    assert ms.accelerate(ours) is ours


def test_ties_take_the_lowest_feature():
    theirs = build(DICTIONARY_LEARNING.AutoEncoderTopK)
    with torch.no_grad():
        theirs.encoder.weight.copy_(theirs.encoder.weight[:1].expand(F, D))
        theirs.encoder.bias.fill_(9.0)
    _, _, indices, _ = ms.accelerate(theirs).encode(batch(), return_topk=True)
    assert indices.sort(-1).values.tolist() == [[0, 1, 2, 3, 4]] * N


def test_what_is_not_supported_is_refused_by_name():
    with pytest.raises(TypeError, match=r"module: got a torch\.nn\..*Linear; wanted one of sae_lens: StandardSAE"):
        ms.accelerate(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="JumpReLUTrainingSAE; wanted one of"):
        ms.accelerate(SAE_LENS.JumpReLUTrainingSAE(D, F))

    class Mine(SAE_LENS.TopKSAE):
        def encode(self, x):
            return x

    with pytest.raises(TypeError, match=r"Mine with its own encode\(\); wanted TopKSAE's"):
        ms.accelerate(Mine(D, F))

    class Named(SAE_LENS.TopKSAE):
        pass

    assert isinstance(ms.accelerate(Named(D, F)), Named)
