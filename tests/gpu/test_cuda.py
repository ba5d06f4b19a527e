"""What an emulation of the CUDA kernels cannot show: that they run on a GPU as they do on a processor.

The operations' own tests, run on GPU tensors by each backend, are in ``tests/ops``. Those named ``sanitizer`` are small
enough for compute-sanitizer (``python bench/gpu.py --only tests,sanitizer``).
"""

import importlib.util

import pytest
import torch
from ops.cases import code, within_twice

from monosem.ops import cuda_rows, reference

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
    pytest.mark.skipif(
        importlib.util.find_spec("monosem._cuda") is None, reason="monosem._cuda was not built (`monosem doctor`)"
    ),
]
HYPER = (1e-2, 0.9, 0.99, 1e-8, 7)


def on_gpu(*tensors):
    return tuple(t.cuda() for t in tensors)


def everything(n: int, d: int, f: int, dtype: torch.dtype = torch.float32) -> None:
    """Each kernel once, against its definition in float64."""
    torch.manual_seed(0)
    v, i, o = on_gpu(*(t.cpu() for t in code(n, d, f)))
    w = torch.nn.functional.normalize(torch.randn(f, d, device="cuda"), dim=-1).to(dtype)
    x, b, v = torch.randn(n, d, device="cuda").to(dtype), torch.randn(d, device="cuda").to(dtype), v.to(dtype)
    single, double = (v.float(), i, o, w.float(), b.float()), (v.double(), i, o, w.double(), b.double())
    ours = cuda_rows.decode_loss(v, i, o, w, b, x)
    plain, exact = reference.decode_loss(*single, x.float()), reference.decode_loss(*double, x.double())
    for mine, p, e in zip(ours, plain, exact, strict=True):
        within_twice(mine, p.to(dtype), e)
    plain, exact = reference.sparse_decode(*single).to(dtype), reference.sparse_decode(*double)
    within_twice(cuda_rows.sparse_decode(v, i, o, w, b), plain, exact)
    within_twice(
        cuda_rows.gather_dot(x, i, o, w), reference.gather_dot(x.float(), i, o, w.float()).to(dtype),
        reference.gather_dot(x.double(), i, o, w.double()),
    )  # fmt: skip
    csc = cuda_rows.csc(i, o, f)
    for mine, wanted in zip(csc, reference.csc(i, o, f), strict=True):
        assert torch.equal(mine, wanted)
    v, x = v.float(), x.float()
    exact = reference.row_grad(*csc, v.double(), x.double())
    within_twice(cuda_rows.row_grad(*csc, v, x), reference.row_grad(*csc, v, x), exact)
    exact = reference.feature_sum(csc[0], csc[1], v.double())
    within_twice(cuda_rows.feature_sum(csc[0], csc[1], v), reference.feature_sum(csc[0], csc[1], v), exact)
    for unit in (False, True):
        rows = [w.float(), torch.randn(f, d, device="cuda") * 1e-2, torch.rand(f, d, device="cuda") * 1e-3 + 1e-4]
        exact = [t.double() for t in rows]
        reference.row_adam_(*exact, reference.row_grad(*csc, v.double(), x.double()) * 0.5, *HYPER, unit)
        cuda_rows.row_grad_adam_(*rows, *csc, v, x, 0.5, *HYPER, unit)
        assert (rows[0].double() - exact[0]).abs().max() < 2e-7  # as in tests/ops/test_cuda_emulated.py
        torch.testing.assert_close(rows[1].double(), exact[1], rtol=1e-5, atol=2e-6)
    scores = torch.randint(-3, 9, (n, 100), device="cuda").float()
    features = torch.stack([torch.randperm(100, device="cuda") for _ in range(n)]).int()
    dense = torch.zeros_like(scores).scatter_(1, features.long(), scores)
    values, indices = cuda_rows.topk_select(
        scores, features, torch.full((n,), 100, dtype=torch.int32, device="cuda"), 9
    )
    wanted = reference.topk_encode(dense, torch.eye(100, device="cuda"), torch.zeros(100, device="cuda"), 9)
    assert torch.equal(values, wanted[0]) and torch.equal(indices, wanted[1])
    w_enc, w_dec, b_enc = torch.randn(f, d, device="cuda"), w.float(), torch.ones(f, device="cuda")
    alive, chosen = torch.ones(f, dtype=torch.bool, device="cuda"), torch.tensor([0, f - 1], device="cuda")
    alive[chosen] = False
    plain = [t.clone() for t in (w_enc, w_dec, b_enc)]
    cuda_rows.resample_(w_enc, w_dec, b_enc, [], chosen, x[:2], alive, 0.2)
    reference.resample_(*plain, [], chosen, x[:2], alive, 0.2)
    for a, e in zip((w_enc, w_dec, b_enc), plain, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-6)
    torch.cuda.synchronize()


@pytest.mark.parametrize("size", [(40, 33, 50), (24, 64, 40)])
def test_every_kernel_small_enough_for_the_sanitizer(size):
    everything(*size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "size", [(300, 768, 1000), (500, 512, 4096), (200, 4096, 700), (64, 2304, 900), (40, 12_300, 60)]
)
def test_every_kernel_at_real_widths(size, dtype):
    everything(*size, dtype)


def test_many_entries_are_sorted_and_reduced_the_same_every_time():
    n, f, k, d = 8192, 131_072, 64, 64
    i = torch.randint(f, (n, k), device="cuda", dtype=torch.int32)
    i[:, 0] = 7  # on every token
    i, o = i.reshape(-1), torch.arange(n + 1, device="cuda") * k
    csc = cuda_rows.csc(i, o, f)
    for mine, wanted in zip(csc, reference.csc(i, o, f), strict=True):
        assert torch.equal(mine, wanted)
    v, u = torch.rand(n * k, device="cuda"), torch.randn(n, d, device="cuda")
    first = cuda_rows.row_grad(*csc, v, u)
    for _ in range(5):
        assert torch.equal(first, cuda_rows.row_grad(*csc, v, u))
    exact = reference.row_grad(*csc, v.double(), u.double())
    within_twice(first, reference.row_grad(*csc, v, u), exact)


def test_every_block_size_that_tuning_may_choose_is_right(monkeypatch):
    for threads in cuda_rows.THREADS:
        monkeypatch.setattr(cuda_rows, "tuned", lambda *_, threads=threads: threads)
        everything(50, 768, 80)


def test_the_stream_of_the_caller_is_used():
    side = torch.cuda.Stream()
    w, m, v = (torch.zeros(4, 8, device="cuda") for _ in range(3))
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        g = torch.empty(1 << 28, device="cuda").fill_(0).sum() + torch.ones(4, 8, device="cuda")  # takes a while
        cuda_rows.row_adam_(w, m, v, g, *HYPER, False)
    side.synchronize()
    torch.testing.assert_close(m.cpu(), torch.full((4, 8), 0.1))
