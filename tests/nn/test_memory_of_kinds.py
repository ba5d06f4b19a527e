"""No kind makes an array of tokens × features, in whichever way its step runs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import monosem as ms
from monosem.ops import capacity
from monosem.train.step import FastStep

N, D, F, K = 2048, 32, 4096, 8
KINDS = {
    "topk": lambda: ms.TopKSAE(D, F, K, seed=0),
    "batch_topk": lambda: ms.BatchTopKSAE(D, F, K, seed=0),
    "relu-free": lambda: ms.ReLUSAE(D, F, 1e-3, decoder_norm="free", seed=0),
    "jumprelu": lambda: ms.JumpReLUSAE(D, F, 1e-3, bandwidth=0.1, initial_threshold=2.0, seed=0),
    "jumprelu-tanh": lambda: ms.JumpReLUSAE(D, F, 1e-3, form="tanh", decoder_norm="free", seed=0),
    "gated": lambda: ms.GatedSAE(D, F, 1e-3, seed=0),
    "matryoshka": lambda: ms.MatryoshkaSAE(D, F, K, seed=0),
    "matryoshka-relu": lambda: ms.MatryoshkaSAE(D, F, activation="relu", seed=0),
}


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operation returned."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_no_array_of_a_step_has_the_size_of_tokens_times_features(kind):
    sae = KINDS[kind]()
    if kind not in ("topk", "batch_topk", "matryoshka"):  # at first many features are active: products in blocks
        with torch.no_grad():
            sae.b_enc.fill_(-1.0 if kind == "gated" else 0.0)
    step, dead = FastStep(sae), torch.arange(F) % 7 == 0
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    with Largest() as watch:
        for _ in range(2):
            step(x, 1e-3, dead=dead)
    # In fp32 one such array has 32 MiB, a mask of it 8 MiB.
    assert watch.bytes < N * F, f"{watch.bytes:,} bytes"
    assert capacity.BLOCK_BYTES["cpu"] < N * F
