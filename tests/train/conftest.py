"""Small autoencoders and activations that every test of training starts from."""

from dataclasses import replace

import pytest
import torch

import monosem as ms
from monosem.data.synthetic import SyntheticDictionary

D, F = 16, 48


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The arrays of these tests are too small for several threads, which would synchronise most of the time.

    Child processes too: a resume is bitwise for the same number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(params=["topk", "relu"])
def sae(request):
    return make_sae(request.param)


@pytest.fixture
def make():
    """make("topk") or make("relu"): the same weights each time."""
    return make_sae


def make_sae(kind: str, seed: int = 0):
    return ms.TopKSAE(D, F, k=4, seed=seed) if kind == "topk" else ms.ReLUSAE(D, F, 3e-3, seed=seed)


@pytest.fixture
def source():
    """source(): endless activations of known features with an exact position."""
    return lambda **options: SyntheticDictionary(D, 32, 3, **{"batch_size": 64, "noise": 0.02} | options)


@pytest.fixture
def config():
    """config(...): a short run, with the changes given."""
    base = ms.TrainConfig(lr=1e-3, batch_size=64, steps=12, log_every=5, checkpoint_every=4, dead_after=300)
    return lambda **changes: replace(base, **changes)


@pytest.fixture
def weights():
    """weights(sae): every parameter as one vector, to compare bit for bit."""
    return lambda sae: torch.cat([p.detach().flatten() for p in sae.parameters()])
