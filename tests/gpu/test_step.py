"""The whole training step on a GPU: right, without waiting, as a graph, the same every time, in bounded memory."""

import importlib.util

import pytest
import torch

import monosem as ms
from monosem.bench.workloads import Workload
from monosem.train import captured
from monosem.train.batches import check_batch
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


def made(kind: str, device: str = "cuda", d: int = D, f: int = F, k: int = K, **options) -> FastStep:
    sae = ms.TopKSAE(d, f, k, seed=1) if kind == "topk" else ms.ReLUSAE(d, f, 1e-3, seed=1)
    if kind == "relu":
        sae.b_enc.data.fill_(-1.2)  # a few per cent of the features fire
        sae.capacity.expect(most=300, mean=100.0)  # so the sparse path begins
    return FastStep(sae.to(device), **options)


def batch(seed: int, n: int = N, d: int = D, device: str = "cuda") -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(device)


def clear_batch(sae: torch.nn.Module, kind: str, n: int = N) -> torch.Tensor:
    """Tokens of which any fp32 arithmetic chooses the same entries: no pre-activation is so near to the next, or to 0,
    that rounding decides. Where it does, the entry's whole gradient is there or is not."""
    x = batch(0, 2 * n, device="cpu")
    pre = x.double() @ sae.W_enc_rows.T + sae.b_enc
    gap = pre.sort(descending=True).values[:, K - 1 : K + 1].diff().abs() if kind == "topk" else pre.abs()
    # Both may be off by the most that fp32 can be, D + 64 roundings.
    most = 2 * (D + 64) * 2.0**-23 * x.double().norm(dim=1) * sae.W_enc_rows.norm(dim=1).max()
    clear = gap.amin(dim=1) > most
    assert clear.sum() >= n
    return x[clear][:n]


def weights(step: FastStep) -> list[torch.Tensor]:
    return [p.detach().clone() for p in step.sae.parameters()]


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_gradients_are_those_of_autograd_in_float64(kind):
    step, exact = made(kind), made(kind, "cpu").sae.double()
    x = clear_batch(exact, kind)
    mine = step.sae.gradients(x.cuda())
    loss = exact.loss(x.double())
    loss.loss.backward()
    rows = mine.parameters
    csc = ms.ops.csc(rows.indices, rows.offsets, F)
    found = {
        "W_enc_rows": ms.ops.row_grad(*csc, rows.slopes, rows.inputs),
        "W_dec": ms.ops.row_grad(*csc, rows.values, rows.residual) * rows.decoder_scale,
        "b_enc": ms.ops.feature_sum(csc[0], csc[1], rows.slopes),
    }
    assert abs(float(mine.loss) - float(loss.loss)) < 2e-6 * float(loss.loss)
    for name, g in found.items():
        wanted = getattr(exact, name).grad
        # Relative to the largest entry: a sum over the tokens of a feature, some tens, of products of sums over D, each
        # of which rounds by 2⁻²⁴ of its own size. On a processor, and in Triton's interpreter, that comes to 2e-7.
        assert (g.cpu().double() - wanted).abs().max() < 2e-6 * wanted.abs().max(), name


def test_a_dictionary_that_begins_with_few_active_features_has_no_dense_step():
    x, on_cpu = batch(0, device="cpu"), ms.ReLUSAE(D, F, 1e-3, initial_l0=20.0, seed=1)
    on_gpu = ms.ReLUSAE(D, F, 1e-3, initial_l0=20.0, seed=1).cuda()
    with torch.no_grad():
        on_gpu.initialize(x.cuda())
        on_cpu.initialize(x)
    # One part of z, should a pre-activation lie at its edge, and rounding: |h| is near 1.
    assert (on_gpu.b_enc.cpu() - on_cpu.b_enc).abs().max() < 0.02
    mine = on_gpu.gradients(x.cuda())
    assert mine.redone == 0 and float(mine.l0) == pytest.approx(20.0, rel=0.05)
    assert isinstance(mine.parameters, ms.nn.RowFactors)  # not multiplied out


def test_no_token_is_left_out_when_relu_outgrows_its_capacity():
    step, x = made("relu"), batch(0)
    step.sae.capacity.expect(most=300, mean=0.5)  # far more fire
    mine = step.sae.gradients(x)
    assert mine.redone > 0 and mine.left_out is None
    exact = made("relu", "cpu").sae.double().loss(x.double().cpu())
    assert float(mine.loss) == pytest.approx(float(exact.loss), rel=1e-5)
    assert float(mine.l0) == pytest.approx(float(exact.code.l0()), rel=1e-3)  # but for what is 0 within rounding


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_training_matches_the_cpu(kind, backend, monkeypatch):
    gpu, cpu = made(kind), made(kind, "cpu")
    for seed in range(5):
        mine = float(gpu(batch(seed), 1e-3).loss)
        monkeypatch.setenv("MONOSEM_BACKEND", "native")
        wanted = float(cpu(batch(seed, device="cpu"), 1e-3).loss)
        monkeypatch.setenv("MONOSEM_BACKEND", backend)
        # fp32 is 1e-7 from float64 here. Where rounding chooses another entry, Adam moves the rows of one feature by up
        # to lr another way, and that feature is on 1 of 100 tokens: 1e-5. Another gradient is seen in the first digits.
        assert mine == pytest.approx(wanted, rel=1e-4)
    norms = gpu.sae.W_dec.norm(dim=-1)
    # Each entry, the root and the norm taken here are rounded: eight units of 2⁻²³ or less.
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


@pytest.fixture
def without_waiting():
    """Whatever waits for the GPU is an error."""

    def call(function):
        torch.cuda.synchronize()
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return function()
        finally:
            torch.cuda.set_sync_debug_mode(before)

    return call


OPTIONS = [{}, {"adam_state": "bf16", "lazy_rows": True}, {"adam_state": "int8", "lazy_rows": True}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["topk", "topk with AuxK", "relu"])
def test_a_step_never_synchronises(kind, options, without_waiting):
    step, x = made(kind.split()[0], **options), batch(0)
    dead = torch.arange(F, device="cuda") % 3 == 0 if kind.endswith("AuxK") else None
    for _ in range(3):  # compiles and allocates; what is known two steps late is known
        step(x, 1e-3, dead=dead)
    for _ in range(3):
        made_now = without_waiting(lambda: step(x, 1e-3, dead=dead))
    assert torch.isfinite(made_now.loss)
    if dead is not None:
        assert made_now.aux > 0


def test_relu_begins_dense_without_synchronising(without_waiting):
    step = FastStep(ms.ReLUSAE(D, F, 1e-3, seed=1, device="cuda"))
    for seed in range(3):
        step(batch(seed), 1e-3)
    x = batch(4)
    without_waiting(lambda: step(x, 1e-3))
    assert step.sae.capacity.density > 0.1


# A graph is captured with a wait, anew where features die: in this one none does.
@pytest.mark.parametrize(("graph", "dead_after"), [(False, N), (True, 10**9)])
def test_the_trainer_synchronises_only_to_write_metrics(graph, dead_after, without_waiting):
    config = ms.TrainConfig(
        batch_size=N, steps=100, dead_after=dead_after, log_every=1000, init_bias=False, cuda_graph=graph
    )
    trainer = ms.Trainer(ms.TopKSAE(D, F, K, seed=1, device="cuda"), config, progress=False)
    batches = [batch(seed, device="cpu") for seed in range(6)]
    for x in batches[:4]:
        trainer._step(check_batch(x, trainer._like, (D,), 0, movable=True))
    for x in batches[4:]:
        without_waiting(lambda x=x: trainer._step(check_batch(x, trainer._like, (D,), 0, movable=True)))
    assert trainer.steps_done == 6


@pytest.mark.parametrize("options", OPTIONS)
def test_replays_of_a_captured_step_train_on(options):
    """One graph, another batch and another learning rate at each replay: the steps that would have been called."""
    called, replayed = made("topk", **options), made("topk", **options)
    x, lr = batch(0), torch.zeros((), dtype=torch.float64, device="cuda")

    def rate(seed: int) -> float:
        return 1e-2 / (1 + seed)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for seed in range(3):  # compiles and allocates
            for step in (called, replayed):
                step(x.copy_(batch(seed)), lr.fill_(rate(seed)))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = replayed(x, lr).loss
    for seed in range(3, 8):
        x.copy_(batch(seed))
        lr.fill_(rate(seed))
        graph.replay()
        wanted = called(x, lr).loss
        assert torch.equal(loss, wanted), seed
        for a, b in zip(weights(replayed), weights(called), strict=True):
            assert torch.equal(a, b), seed
    assert replayed.count == called.count == 8
    for a, b in zip(replayed.state_dict().values(), called.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", [*OPTIONS, {"clip": 0.1, "ema": 0.9}])
def test_the_trainer_replays_its_step_to_the_same_weights(options):
    """With features that die, so that the room of AuxK changes, and a batch of another size in between."""

    def run(graph: bool) -> tuple[ms.Trainer, list[torch.Tensor], list[bool]]:
        config = ms.TrainConfig(batch_size=N, steps=40, dead_after=4 * N, init_bias=False, cuda_graph=graph, **options)
        sae = ms.TopKSAE(D, F, 4, seed=1, device="cuda")
        with torch.no_grad():
            sae.b_enc[: F // 2] = -1.0  # half of them never fire
        trainer, losses, replayed = ms.Trainer(sae, config, progress=False), [], []
        for seed in range(24):
            losses.append(trainer.step(batch(seed, N - 32 if seed == 16 else N))["loss"])
            replayed.append(graph and trainer.learners[0].captured.replaying)
        return trainer, losses, replayed

    (mine, losses, replayed), (plain, wanted, _) = run(True), run(False)
    assert captured.failed == "" and sum(replayed) >= 6 and not replayed[16]
    assert [float(a) for a in losses] == [float(b) for b in wanted]
    for name, t in plain.learners[0].state_dict().items():
        assert torch.equal(mine.learners[0].state_dict()[name], t), name


def test_a_capture_that_fails_leaves_the_process_as_it_was():
    x, stream = batch(0), torch.cuda.current_stream()
    for call in (lambda: x.sum().item(), lambda: torch.randn(9, device="cuda").sum().item(), lambda: 1 // 0):
        with pytest.raises(captured.CaptureFailed):
            captured.capture(call, x.device)
        assert torch.cuda.current_stream() == stream and not torch.cuda.is_current_stream_capturing()
        torch.cuda.empty_cache()
        assert torch.isfinite(torch.randn(1000, device="cuda") + x.sum()).all()
        graph, out = captured.capture(lambda: x * 2, x.device)
        x.copy_(batch(1))
        graph.replay()
        assert torch.equal(out, 2 * x)


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


@pytest.mark.parametrize("state", ["fp32", "bf16", "int8"])
def test_memory_stays_near_weights_and_optimizer(state):
    w = Workload(n=4096, d=768, f=98_304, k=32)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    step, x = made("topk", d=w.d, f=w.f, k=w.k, adam_state=state), batch(0, w.n, w.d)
    step(x, 1e-3)
    torch.cuda.reset_peak_memory_stats()
    step(x, 1e-3)
    peak = torch.cuda.max_memory_allocated() - before - x.numel() * 4
    # Weights, both moments, the encoder's copy in bf16, and a tenth of what that is with moments in fp32.
    kept = w.state_bytes("bf16", adam_state=state)
    assert peak <= kept + 0.1 * w.state_bytes("bf16"), f"{peak / kept:.3f} × the state"
