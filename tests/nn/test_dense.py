"""ReLU's dense gradients in blocks of features."""

import pytest
import torch
from nn.multiplied import multiplied

import monosem as ms
from monosem.nn import DenseBlocks
from monosem.ops import capacity
from monosem.train.step import FastStep

N, D, F = 37, 12, 150  # blocks of 64, 64 and 22 features


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setitem(capacity.BLOCK_BYTES, "cpu", 1)


def make():
    sae = ms.ReLUSAE(D, F, 0.01, seed=0)
    with torch.no_grad():
        sae.b_enc.copy_(0.1 * torch.randn(F, generator=torch.Generator().manual_seed(1)))
        sae.b_dec.copy_(0.1 * torch.randn(D, generator=torch.Generator().manual_seed(2)))
    return sae


def batch(seed=3):
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


def test_gradients_of_blocks_equal_autograd(small_blocks):
    sae, x = make(), batch()
    out = sae.loss(x)
    out.loss.backward()
    gradients = sae.gradients(x)
    assert isinstance(gradients.parameters, DenseBlocks)
    assert [(part.start, part.stop) for part in gradients.parameters._parts()] == [(0, 64), (64, 128), (128, 150)]
    for got, want in zip(multiplied(gradients), sae.parameters(), strict=True):
        torch.testing.assert_close(got, want.grad, rtol=1e-4, atol=1e-7)
    with pytest.raises(RuntimeError, match="asked for a second time"):  # by now the weights may have changed
        gradients.parameters.multiplied()
    torch.testing.assert_close(gradients.loss, out.loss, rtol=1e-5, atol=0)
    assert torch.equal(gradients.parameters.per_token, (out.code.to_dense() > 0).sum(1))
    assert torch.equal(gradients.fired, out.code.active_counts() > 0)


@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("adam_state", ["fp32", "bf16", "int8"])
def test_a_step_in_blocks_equals_a_step_in_one_block(monkeypatch, adam_state, clip):
    # Weights of a block change before the next block's gradients are computed, which must not depend on them.
    states = []
    for size in (1, 1 << 30):
        monkeypatch.setitem(capacity.BLOCK_BYTES, "cpu", size)
        sae = make()
        step = FastStep(sae, adam_state=adam_state)
        for seed in range(3):
            sae.capacity.density.fill_(1.0)
            step(batch(seed), 1e-3, clip=clip)
        states.append((sae, step))
    (some, by_blocks), (whole, at_once) = states
    # Moments of fewer bits are rounded by a hash of the row's number in its block: they differ by a little of the 3e-3
    # that three steps move a weight.
    loose = {"fp32": 1e-6, "bf16": 5e-5, "int8": 2e-4}[adam_state]
    for name in ("W_enc_rows", "W_dec", "b_enc", "b_dec"):
        torch.testing.assert_close(getattr(some, name), getattr(whole, name), rtol=0, atol=loose)
    if adam_state == "int8":
        for name, scales in by_blocks.scales.items():
            torch.testing.assert_close(scales, at_once.scales[name], rtol=0.1, atol=0)
            assert (scales > 0).all()


def test_no_array_is_larger_than_a_block(monkeypatch):
    # 2,048 tokens × 4,096 features are 32 MiB in fp32; no array may have that size.
    sae, x = ms.ReLUSAE(64, 4096, 1e-3, seed=0), torch.randn(2048, 64)
    assert sae.gradients(x).l0 > 1000
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.untyped_storage().nbytes())
            return out

    step = FastStep(sae)
    with Watch():
        step(x, 1e-3)
    assert largest <= capacity.BLOCK_BYTES["cpu"]
