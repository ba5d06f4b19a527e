"""The operations on rows of a code against their definitions, on buffers full of NaN."""

import pytest
import torch
from ops.cases import code, encoder, here, plainly, within_twice

from monosem import ops
from monosem.ops import gpu, reference

SIZES = [(6, 5, 9), (1, 1, 1), (0, 4, 3), (50, 129, 77), (700, 64, 5), (40, 200, 3000)]
if gpu.interpreted():
    SIZES = [*SIZES[:3], (12, 129, 77), (150, 8, 2), (5, 200, 300)]
pytestmark = pytest.mark.usefixtures("device")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Uninitialised memory is NaN: whatever a kernel forgets to write shows."""
    empty = torch.empty

    def poison(*size, **options):
        t = empty(*size, **options)
        return t.fill_(torch.nan) if t.is_floating_point() else t.fill_(-(2**31) + 1)

    monkeypatch.setattr(torch, "empty", poison)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decode_and_loss(size, dtype):
    n, d, f = size
    values, indices, offsets = code(n, d, f)
    x, w, _ = encoder(n, d, f, dtype, seed=3)
    b = w.mean(0)
    values = values.to(dtype)
    args64 = values.double(), indices, offsets, w.double(), b.double()
    args32 = values.float(), indices, offsets, w.float(), b.float()
    within_twice(
        ops.sparse_decode(values, indices, offsets, w, b),
        plainly(reference.sparse_decode, *args32).to(dtype),
        reference.sparse_decode(*args64),
    )
    ours = ops.decode_loss_rows(values, indices, offsets, w, b, x)
    plain = plainly(reference.decode_loss, *args32, x.float())
    exact = reference.decode_loss(*args64, x.double())
    for o, p, e in zip(ours, plain, exact, strict=True):
        within_twice(o, p.to(dtype), e)
    g = here(torch.randn(n, d, device="cpu")).to(dtype)
    within_twice(
        ops.gather_dot(g, indices, offsets, w),
        plainly(reference.gather_dot, g.float(), indices, offsets, w.float()).to(dtype),
        reference.gather_dot(g.double(), indices, offsets, w.double()),
    )


@pytest.mark.parametrize("size", SIZES)
def test_csc_and_row_gradients(size):
    n, d, f = size
    values, indices, offsets = code(n, d, f)
    csc = ops.csc(indices, offsets, f)
    for ours, theirs in zip(csc, reference.csc(indices, offsets, f), strict=True):
        assert torch.equal(ours, theirs)
    u = here(torch.randn(n, d, device="cpu"))
    exact = reference.row_grad(*csc, values.double(), u.double())
    within_twice(ops.row_grad(*csc, values, u), plainly(reference.row_grad, *csc, values, u), exact)
    exact = reference.feature_sum(csc[0], csc[1], values.double())
    within_twice(ops.feature_sum(*csc[:2], values), plainly(reference.feature_sum, *csc[:2], values), exact)


def test_csc_shares_the_work_and_keeps_the_order(native_only):
    # Enough entries that two workers sort: equal to one worker's answer.
    _, indices, offsets = code(9000, 1, 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = ops.csc(indices, offsets, 16)
        torch.set_num_threads(1)
        one = ops.csc(indices, offsets, 16)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one, reference.csc(indices, offsets, 16), strict=True))


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_adam_is_torch_adam(unit, sparse):
    n, d, f = (20, 37, 12) if gpu.interpreted() else (60, 37, 90)
    steps = 3 if gpu.interpreted() else 20
    values, indices, offsets = code(n, d, f)
    csc = ops.csc(indices, offsets, f)
    w = torch.nn.functional.normalize(torch.randn(f, d), dim=-1)
    mine = [w.clone(), torch.zeros(f, d), torch.zeros(f, d)]
    theirs = torch.nn.Parameter(w.double().clone())
    adam = torch.optim.Adam([theirs], lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
    clear = torch.ones(f, d, dtype=torch.bool)
    for step in range(1, steps + 1):
        u = here(torch.randn(n, d, generator=torch.Generator().manual_seed(step), device="cpu"))
        g = reference.row_grad(*csc, values.double(), u.double()) * 0.5
        hyper = (1e-2, 0.9, 0.99, 1e-8, step, unit)
        if sparse:
            ops.row_grad_adam_(*mine, *csc, values, u, 0.5, *hyper)
        else:
            ops.row_adam_(*mine, g.float(), *hyper)
        if unit:
            g = g - (g * theirs.detach()).sum(-1, keepdim=True) * theirs.detach()
        # Adam divides by √v: an entry whose gradient all but cancels moves by lr on the sign of rounding alone, in any
        # fp32 implementation. Compared: entries of at least a hundredth of their row's gradient, and exact zeros.
        clear &= (g.abs() >= 1e-2 * g.norm(dim=-1, keepdim=True)) | (g == 0)
        theirs.grad = g
        adam.step()
        if unit:
            theirs.data.div_(theirs.data.norm(dim=-1, keepdim=True))
    # Each of at most 20 steps: rounding of a weight ≤ 1 (6e-8 a few times), and lr = 1e-2 of a quotient good to 1e-5.
    assert clear.float().mean() > 0.2
    assert (mine[0].double() - theirs.detach()).abs()[clear].max() < 20 * 3e-7


def test_adam_rejects_tensors_that_it_cannot_update_in_place():
    w = torch.zeros(4, 6).T
    with pytest.raises(ValueError, match=r"w: got torch.float32, strided; wanted contiguous float32"):
        ops.row_adam_(w, w.clone(), w.clone(), w.clone(), 1e-3, 0.9, 0.999, 1e-8, 1, False)


def test_resample():
    _, w_enc, b_enc = encoder(1, 24, 50)
    w_dec = torch.nn.functional.normalize(torch.randn(50, 24), dim=-1)
    moments = [torch.ones(50, 24), torch.ones(50)]
    chosen, inputs = torch.tensor([3, 49, 0]), torch.randn(3, 24) * 7
    alive = torch.ones(50, dtype=torch.bool)
    alive[chosen] = False
    mine, plain = ([t.clone() for t in (w_enc, w_dec, b_enc, *moments)] for _ in range(2))
    ops.resample_(*mine[:3], mine[3:], chosen, inputs, alive, 0.2)
    reference.resample_(*plain[:3], plain[3:], chosen, inputs, alive, 0.2)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert torch.equal(mine[1][1], w_dec[1])  # the others are not touched


def test_gradients_of_decode_and_loss():
    n, d, f = 7, 5, 12  # each entry is varied twice, in Triton's interpreter too
    values, indices, offsets = code(n, d, f)
    x, w, _ = encoder(n, d, f)
    leaves = [t.double().requires_grad_() for t in (values, w, w.mean(0).clone(), x)]

    def decode(v, w, b, x):
        return ops.sparse_decode(v, indices, offsets, w, b)

    def loss(v, w, b, x):
        token, residual, _ = ops.decode_loss_rows(v, indices, offsets, w, b, x)
        return token, residual

    assert torch.autograd.gradcheck(decode, leaves[:4])
    assert torch.autograd.gradcheck(loss, leaves)
    # The native kernels' gradients against the definition's, in float32.
    small = [t.detach().float().requires_grad_() for t in leaves]
    token, residual = loss(*small)
    (token.sum() + (residual * x).sum()).backward()
    token, residual = loss(*leaves)
    (token.sum() + (residual * x.double()).sum()).backward()
    for a, b in zip(small, leaves, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, o: (i + 30, o), "indices: got features 30 to 59; wanted 0 to 29"),
        (lambda i, o: (i - 1, o), "indices: got features -1"),
        (lambda i, o: (i, o[:-1]), "offsets: got 0 … "),
        (lambda i, o: (i, o + 1), "offsets: got 1 … "),
        (lambda i, o: (i, torch.cat([o[:1], o.flip(0)[:-1], o[-1:]])), "wanted ascending from 0"),
    ],
)
def test_a_broken_code_is_refused_before_it_is_followed(change, message, monkeypatch):
    monkeypatch.setenv("MONOSEM_CHECK", "1")  # on a GPU the host must wait to know, so only on request
    values, indices, offsets = code(12, 9, 30)
    indices[:2] = torch.tensor([0, 29])
    indices, offsets = change(indices, offsets)
    w = torch.randn(30, 9)
    for call in (
        lambda: ops.sparse_decode(values, indices, offsets, w, w[0]),
        lambda: ops.gather_dot(torch.randn(12, 9), indices, offsets, w),
        lambda: ops.decode_loss_rows(values, indices, offsets, w, w[0], torch.randn(12, 9)),
        lambda: ops.csc(indices, offsets, 30),
    ):
        with pytest.raises(IndexError, match=message):
            call()
