"""Neurons as a dictionary, and the shuffled model."""

import pytest
import torch
from fake_model import HOOK, FakeModel
from tiny import tiny_model

from monosem.analysis.inputs import load_subject
from monosem.analysis.neuron_basis import NeuronBasis
from monosem.data.models import load_model
from monosem.data.shuffled_weights import shuffle_weights


def test_the_code_of_a_neuron_is_its_positive_activation():
    x = torch.tensor([[[1.0, -2.0, 0.0], [0.0, 3.0, 4.0]]])
    basis = NeuronBasis(3)
    code = basis.encode(x)
    assert torch.equal(code.to_dense(), x.relu())
    assert torch.equal(basis(x), x.relu())
    assert code.offsets.tolist() == [0, 1, 3] and code.active_counts().tolist() == [1, 1, 1]
    assert float(code.l0()) == 1.5
    with pytest.raises(ValueError, match="d_in=3"):
        basis.encode(torch.zeros(2, 4))


def test_zero_tokens_give_an_empty_code():
    code = NeuronBasis(3).encode(torch.zeros(0, 3))
    assert code.n_tokens == 0 and code.values.numel() == 0


def test_neurons_are_loaded_by_name():
    subject = load_subject("neurons:A")
    assert subject.hook_name == HOOK and subject.sae.cfg.d_sae == subject.model.width(HOOK) == 512
    assert subject.sae.metadata == {"model": "A", "hook_name": HOOK}


def test_shuffling_keeps_the_entries_of_every_matrix_and_loses_their_order():
    model = tiny_model()
    shuffled = shuffle_weights(model)
    assert shuffled.name == "tiny~shuffled"
    for (name, a), b in zip(model.module.named_parameters(), shuffled.module.parameters(), strict=True):
        if a.ndim < 2:
            assert torch.equal(a, b), name
            continue
        assert not torch.equal(a, b), name
        for p, q in zip(a.chunk(3), b.chunk(3), strict=True) if "qkv" in name else ((a, b),):
            assert torch.equal(p.flatten().sort().values, q.flatten().sort().values), name
    again = shuffle_weights(model)
    assert all(torch.equal(a, b) for a, b in zip(again.module.parameters(), shuffled.module.parameters(), strict=True))


def test_a_shuffled_model_is_loaded_by_name():
    model = load_model("A~shuffled")
    assert model.name == "A~shuffled" and model.width(HOOK) == 512


def test_only_native_models_can_be_shuffled():
    with pytest.raises(ValueError, match=r"model: got FakeModel 'fake'; wanted one of monosem's own"):
        shuffle_weights(FakeModel())
