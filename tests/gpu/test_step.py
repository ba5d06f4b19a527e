"""The whole training step on a GPU: right, without waiting, as a graph, the same every time, in bounded memory."""

import importlib.util

import pytest
import torch

import monosem as ms
from monosem.bench.workloads import Workload
from monosem.train.step import FastStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
BUILT = importlib.util.find_spec("monosem._cuda") is not None
BACKENDS = [
    "triton",
    pytest.param("cuda", marks=pytest.mark.skipif(not BUILT, reason="monosem._cuda was not built (`monosem doctor`)")),
]
N, D, F, K = 512, 192, 2048, 16


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("MONOSEM_BACKEND", request.param)
    return request.param


def made(kind: str, device: str = "cuda", d: int = D, f: int = F, k: int = K) -> FastStep:
    sae = ms.TopKSAE(d, f, k, seed=1) if kind == "topk" else ms.ReLUSAE(d, f, 1e-3, seed=1)
    if kind == "relu":
        sae.b_enc.data.fill_(-1.2)  # a few per cent of the features fire
        sae.density.fill_(0.0)  # so the sparse path begins
    return FastStep(sae.to(device))


def batch(seed: int, n: int = N, d: int = D, device: str = "cuda") -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(device)


def weights(step: FastStep) -> list[torch.Tensor]:
    return [p.detach().clone() for p in step.sae.parameters()]


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_gradients_are_those_of_autograd_in_float64(kind):
    step, x = made(kind), batch(0)
    mine = step.sae.gradients(x)
    exact = made(kind, "cpu").sae.double()
    loss = exact.loss(x.double().cpu())
    loss.loss.backward()
    rows = mine.rows
    csc = ms.ops.csc(rows.indices, rows.offsets, F)
    found = {
        "W_enc_rows": ms.ops.row_grad(*csc, rows.slopes, rows.inputs),
        "W_dec": ms.ops.row_grad(*csc, rows.values, rows.residual) * rows.decoder_scale,
        "b_enc": ms.ops.feature_sum(csc[0], csc[1], rows.slopes),
    }
    assert abs(float(mine.loss) - float(loss.loss)) < 1e-5 * float(loss.loss)
    for name, g in found.items():
        wanted = getattr(exact, name).grad
        # Relative to the largest entry: sums of up to N products in fp32.
        assert (g.cpu().double() - wanted).abs().max() < 1e-5 * wanted.abs().max(), name


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_training_goes_the_way_that_it_goes_on_the_processor(kind, backend, monkeypatch):
    gpu, cpu = made(kind), made(kind, "cpu")
    for seed in range(5):
        mine = float(gpu(batch(seed), 1e-3).loss)
        monkeypatch.setenv("MONOSEM_BACKEND", "native")
        wanted = float(cpu(batch(seed, device="cpu"), 1e-3).loss)
        monkeypatch.setenv("MONOSEM_BACKEND", backend)
        assert mine == pytest.approx(wanted, rel=1e-4)
    norms = gpu.sae.W_dec.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


def test_a_step_never_waits_for_the_gpu():
    step, x = made("topk"), batch(0)
    step(x, 1e-3)  # compiles and allocates
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_a_captured_step_is_the_step():
    step, x = made("topk"), batch(0)
    for _ in range(3):
        step(x, 1e-3)
    state = {name: t.clone() for name, t in step.state_dict().items()}
    start = weights(step)

    def back() -> None:
        with torch.no_grad():
            for p, w in zip(step.sae.parameters(), start, strict=True):
                p.copy_(w)
        step.load_state_dict(state)

    loss = step(x, 1e-3).loss
    wanted = [loss, *weights(step)]
    back()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(x, 1e-3)
    torch.cuda.current_stream().wait_stream(side)
    back()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(x, 1e-3).loss
    back()
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip([loss, *weights(step)], wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_the_same_bits_every_run(kind):
    def run() -> list[torch.Tensor]:
        step = made(kind)
        for seed in range(3):
            step(batch(seed), 1e-3)
        return weights(step)

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


def test_memory_stays_near_weights_and_optimizer():
    w = Workload(n=4096, d=768, f=98_304, k=32)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    step, x = made("topk", d=w.d, f=w.f, k=w.k), batch(0, w.n, w.d)
    step(x, 1e-3)
    torch.cuda.reset_peak_memory_stats()
    step(x, 1e-3)
    peak = torch.cuda.max_memory_allocated() - before - x.numel() * 4
    # Weights, both moments, the encoder's copy in bf16, and a tenth.
    assert peak <= 1.1 * w.state_bytes(bf16_copy=True), f"{peak / w.state_bytes(True):.3f} × the state"
