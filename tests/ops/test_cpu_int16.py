"""The product in 16-bit whole numbers: its bound, and the choice that it leads to, against float64 and fp32."""

import pytest
import torch
from ops.cases import encoder

from monosem import ops
from monosem.ops import backend, cpu_int16, reference
from monosem.ops.cpu_encode import _C, _Encoder


@pytest.fixture(autouse=True)
def int16(monkeypatch):
    """This product, on buffers full of what no kernel may read."""
    monkeypatch.setattr(backend, "bf16_products", lambda: False)
    monkeypatch.setattr(backend, "int16_products", lambda: True)
    empty = torch.empty

    def poison(*size, **options):
        t = empty(*size, **options)
        return t.fill_(torch.nan) if t.is_floating_point() else t.fill_(torch.iinfo(t.dtype).max - 7)

    monkeypatch.setattr(cpu_int16.torch, "empty", poison)


def values(x, w, b):
    """Every value as the product makes it, before the survivors are scored again, and the margins."""
    f = len(w)
    block = _C.TopkBlock(len(x), f, 4 * f + 64)
    margin = _Encoder(w, b).offer(block, x)
    v, i = torch.full((len(x), f), torch.nan), torch.zeros(len(x), f, dtype=torch.int32)
    block.finish(len(x), v.data_ptr(), i.data_ptr(), 1)
    return torch.zeros(len(x), f).scatter(1, i.long(), v), margin


ROWS = {
    "normal": lambda n, d: torch.randn(n, d),
    "one large": lambda n, d: torch.randn(n, d).index_fill(1, torch.tensor([d // 2]), 1000.0),
    "one alone": lambda n, d: torch.zeros(n, d).index_fill(1, torch.tensor([d - 1]), -3.0),
    "all equal": lambda n, d: torch.full((n, d), 0.7),
    "halves": lambda n, d: (torch.randint(0, 2, (n, d)) * 2 - 1) * 0.5,
    "very long": lambda n, d: torch.randn(n, d) * 1e15,
    "very short": lambda n, d: torch.randn(n, d) * 1e-18,
    "zero": lambda n, d: torch.zeros(n, d),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("d", [1, 7, 512, 4099])
def test_no_value_is_further_off_than_its_margin(kind, d):
    n, f = 13, 37  # more than two panels of tokens and of features, none of them full
    x, w = ROWS[kind](n, d), ROWS[kind](f, d)
    w[::3], x[::4] = torch.randn(len(w[::3]), d), torch.randn(len(x[::4]), d)
    x[1] = w[2]  # as aligned as can be: the sum comes close to the largest that 32 bits must hold
    b = torch.rand(f) + float((x @ w.T).abs().amax()) * 2  # all above 0, so that none is cut off
    got, margin = values(x, w, b)
    error = (got.double() - (x.double() @ w.double().T + b.double())).abs()
    assert margin is not None and (error <= margin[:, None].double()).all()
    norms = x.norm(dim=1)[:, None] * w.norm(dim=1).amax()  # and the bound is worth having
    useful = (2.1 * d**0.5 / 65024 + 1e-4) * norms + 1e-6 * b.amax() + 1e-12
    assert (margin[:, None] <= useful).all()


@pytest.mark.parametrize("shape", [(29, 511, 700, 8), (1, 2, 3, 3), (64, 96, 2053, 2053), (300, 40, 5000, 40)])
def test_the_choice_is_that_of_fp32(shape, monkeypatch):
    n, d, f, k = shape
    monkeypatch.setattr(cpu_int16, "CHUNK_BYTES", 1 << 15)  # several chunks of features
    monkeypatch.setattr(cpu_int16, "rows_at_a_time", lambda d: 100)  # and several blocks of tokens
    for seed, scale in enumerate((1.0, 1e-6, 1e6)):
        x, w, b = encoder(n, d, f, seed=seed)
        x, b = x * scale, b * scale
        got = ops.topk_encode(x, w, b, k)
        pre = x.double() @ w.double().T + b.double()
        top, order = pre.sort(dim=1, descending=True, stable=True)
        clear = (top[:, :-1] - top[:, 1:] > 2e-6 * scale * d**0.5)[:, :k]  # what fp32 can tell apart
        stable = clear.cumprod(1).bool() if clear.shape[1] == k else clear.new_zeros(n, k)
        assert torch.equal(got.indices[stable], order[:, :k].int()[stable])
        chosen = pre.gather(1, got.indices.long())
        torch.testing.assert_close(got.values.double(), chosen.clamp(min=0), rtol=1e-5, atol=1e-5 * scale)
        code, plain = ops.threshold_encode(x, w, b), (x @ w.T + b).relu()
        torch.testing.assert_close(code.to_dense(), plain, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
@pytest.mark.parametrize("where", ["x", "w", "b"])
def test_what_is_not_a_number_goes_by_the_rules_of_fp32(bad, where, monkeypatch):
    x, w, b = encoder(20, 16, 90)
    {"x": x, "w": w, "b": b}[where].view(-1)[37] = bad
    got = ops.topk_encode(x, w, b, 5), ops.threshold_encode(x, w, b)
    monkeypatch.setattr(backend, "int16_products", lambda: False)
    wanted = ops.topk_encode(x, w, b, 5), ops.threshold_encode(x, w, b)
    assert torch.equal(got[0].indices, wanted[0].indices)
    for a, c in zip(got, wanted, strict=True):
        assert torch.equal(a.values.isnan(), c.values.isnan())
        torch.testing.assert_close(a.values.nan_to_num(), c.values.nan_to_num(), rtol=1e-5, atol=1e-5)


def test_ties_beyond_the_buffer_are_redone():
    x, w = torch.ones(7, 3), torch.full((9000, 3), 0.1)
    b = torch.zeros(9000)
    b[4000] = 1e-7  # within the rounding of the product: only fp32 can tell
    got = ops.topk_encode(x, w, b, 6)
    assert torch.equal(got.indices, reference.topk_encode(x, w, b, 6)[1])


def test_the_same_bits_for_any_number_of_threads_and_every_time():
    x, w, b = encoder(501, 70, 3000)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            runs.append((ops.topk_encode(x, w, b, 9), ops.threshold_encode(x, w, b)))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        for a, c in zip(run, runs[0], strict=True):
            assert torch.equal(a.values, c.values) and torch.equal(a.indices, c.indices)


def test_bf16_tensors():
    x, w, b = encoder(40, 65, 600, torch.bfloat16)
    got = ops.topk_encode(x, w, b, 7)
    exact = (x.double() @ w.double().T + b.double()).gather(1, got.indices.long())
    torch.testing.assert_close(got.values.double(), exact.clamp(min=0), rtol=2**-8, atol=0)
