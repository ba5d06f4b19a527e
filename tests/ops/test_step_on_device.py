"""A whole training step by the Triton kernels, with the learning rate and the number of the step on the device."""

import pytest
import torch

import monosem as ms
from monosem.ops import backend, capacity, gpu
from monosem.train.step import FastStep

pytestmark = pytest.mark.usefixtures("device", "triton_only")
N, D, F, K = 6, 20, 34, 4
OPTIONS = [{}, {"adam_state": "bf16"}, {"adam_state": "int8", "lazy_rows": True}]


def made(kind="topk", d_sae=F, **options) -> FastStep:
    sae = ms.TopKSAE(D, d_sae, K, aux_k=3, seed=1) if kind == "topk" else ms.ReLUSAE(D, d_sae, 1e-3, seed=1)
    if kind == "relu":
        sae.b_enc.data.fill_(-0.7)
        sae.capacity.expect(most=30, mean=5.0)
        sae.capacity.density.fill_(0.0)
    return FastStep(sae, **options)


def batch(seed: int) -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator(torch.get_default_device()).manual_seed(seed))


def everything(step: FastStep) -> list[torch.Tensor]:
    return [*(p.detach() for p in step.sae.parameters()), *step.m.values(), *step.v.values(), *step.scales.values()]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_lr_and_step_on_the_device_train_alike(kind, options):
    by_number, by_tensor = made(kind, **options), made(kind, **options)
    lr = torch.zeros((), dtype=torch.float64)
    for seed in range(3):
        by_number(batch(seed), 1e-2 / (seed + 1))
        by_tensor(batch(seed), lr.fill_(1e-2 / (seed + 1)))
    assert by_tensor.count == by_number.count == 3
    assert all(torch.equal(a, b) for a, b in zip(everything(by_number), everything(by_tensor), strict=True))
    state = by_tensor.state_dict()
    by_number(batch(3), 1e-3)
    by_tensor(batch(3), 1e-3)  # and numbers again
    assert all(torch.equal(a, b) for a, b in zip(everything(by_number), everything(by_tensor), strict=True))
    by_tensor.load_state_dict(state)
    assert by_tensor.count == 3


def test_a_dictionary_that_begins_with_few_active_features_has_no_dense_step():
    sae = ms.ReLUSAE(D, 70, 1e-3, initial_l0=4.0, seed=1)
    x = torch.cat([batch(seed) for seed in range(20)])
    sae.initialize(x)
    mine = sae.gradients(x)
    assert isinstance(mine.parameters, ms.nn.RowFactors) and float(mine.l0) == pytest.approx(4.0, rel=0.1)
    assert mine.redone == 0


def test_a_learning_rate_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"lr: got \[2\] on .*; wanted a 0-dim tensor"):
        made()(batch(0), torch.ones(2))


@pytest.mark.parametrize("product", ["bf16", "int8"])
def test_dense_blocks_update_the_encoder_copy_of_their_rows(product, monkeypatch):
    monkeypatch.setattr(backend, "gpu_product", lambda: product)
    monkeypatch.setattr(capacity, "BLOCK_BYTES", {"cpu": 1, "cuda": 1})  # blocks of 64 and 6 features
    step = made("relu", d_sae=70)
    step.sae.capacity.density.fill_(1.0)
    step.sae.capacity.expect(most=70, mean=70.0)
    step(batch(0), 1e-2)
    rows, norms = gpu.empty_copy(step.sae.W_enc_rows)
    gpu.round_into(rows, norms, step.sae.W_enc_rows.data)
    assert torch.equal(step._encoder_copy.rows, rows)
    torch.testing.assert_close(step._encoder_copy.norms, norms, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("product", ["bf16", "int8"])
@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_the_optimizer_writes_the_encoder_copy(kind, product, monkeypatch):
    """Rounded once in the beginning, and again only when others change the weights; the steps are those without it."""
    monkeypatch.setattr(backend, "gpu_product", lambda: product)
    rounded = []
    round_into = gpu.round_into
    monkeypatch.setattr(gpu, "round_into", lambda *a: rounded.append(1) or round_into(*a))
    kept, plain = made(kind), made(kind)
    assert kept._encoder_copy is not None and plain._encoder_copy is not None
    plain._encoder_copy = None
    asynchronous = kind == "relu"  # the way in which ReLU uses it
    monkeypatch.setattr(gpu, "asynchronous", lambda t: asynchronous)
    for seed in range(4):
        if seed == 2:
            for step in (kept, plain):
                with torch.no_grad():
                    step.sae.W_enc_rows.mul_(1.5)
        for step in (kept, plain):
            step(batch(seed), 1e-2)
    assert len(rounded) == 2
    assert all(torch.equal(a, b) for a, b in zip(everything(kept), everything(plain), strict=True))
    kept.reset_features(torch.tensor([3]))
    kept(batch(5), 1e-2)
    assert len(rounded) == 3
