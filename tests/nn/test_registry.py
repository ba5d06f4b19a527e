"""Autoencoders by the name of their kind."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

import monosem as ms
from monosem.nn import KINDS, registry

OURS = sorted(kind for kind, cls in KINDS.items() if cls.__module__.startswith("monosem."))  # tests register others


@pytest.mark.parametrize("kind", OURS)
def test_an_autoencoder_whose_weights_will_be_read_draws_no_random_number(kind):
    config = registry.configure(kind, 8, 16, k=4)
    before = torch.get_rng_state()
    sae, other = registry.build(config, drawn=False), registry.build(config, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    assert {name: value.shape for name, value in sae.state_dict().items()} == shapes
    sae.load_state_dict(other.state_dict())
    x = torch.randn(5, sae.cfg.d_in)
    assert torch.equal(sae(x), other(x))
    assert torch.randn(1).normal_() is not None and not torch.equal(torch.get_rng_state(), before)  # as ever, outside


@pytest.mark.parametrize("kind", OURS)
def test_nothing_is_computed_of_weights_that_will_be_read(kind, tmp_path):
    """Neither of wide matrices nor on meta, for which PyTorch would import its compiler."""

    class Calls(TorchFunctionMode):
        names: set[str] = set()

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names.add(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    ms.save(registry.build(registry.configure(kind, 8, 16, k=4), seed=0), tmp_path)
    with Calls() as calls:
        ms.load(tmp_path)
    assert "copy_" in calls.names
    assert not {"normal_", "uniform_", "norm", "div_"} & calls.names
