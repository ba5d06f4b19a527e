"""topk_encode and threshold_encode against their definitions."""

import pytest
import torch
from ops.cases import SHAPES, encoder, here, plainly, within_twice

from monosem import ops
from monosem.ops import backend, gpu, reference
from monosem.ops.selection import cpu as selection_cpu

pytestmark = pytest.mark.usefixtures("device")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_is_the_definition(shape, dtype, product):
    n, d, f, k = shape
    x, w, b = encoder(n, d, f, dtype)
    got = ops.topk_encode(x, w, b, k)
    exact, _ = reference.topk_encode(x.double(), w.double(), b.double(), k)
    plain, _ = plainly(reference.topk_encode, x, w, b, k)
    assert got.values.shape == (n, k) and got.indices.dtype == torch.int32
    within_twice(got.values, plain, exact)
    # The chosen set: each chosen pre-activation is within rounding of the k-th largest or above it.
    pre = x.double() @ w.double().T + b.double()
    chosen = pre.gather(1, got.indices.long())
    slack = 1e-5 * (1 + pre.abs().amax()) if n else 0
    assert (chosen.min(1).values >= pre.sort(dim=1, descending=True).values[:, k - 1] - slack).all() if n else True
    assert all(len(set(row)) == k for row in got.indices.tolist())


def test_topk_on_integers_is_exact(product):
    # Products of small integers are exact in fp32 and ties abound: the choice must be equal to the last index.
    g = torch.Generator().manual_seed(1)
    rows = 5 if gpu.interpreted() else 67
    x, w = (here(torch.randint(-2, 3, (n, 24), generator=g, device="cpu").float()) for n in (rows, 3001))
    b = here(torch.randint(-3, 4, (3001,), generator=g, device="cpu").float())
    for k in (1, 5, 64, 1000):
        values, indices = reference.topk_encode(x, w, b, k)
        got = ops.topk_encode(x, w, b, k)
        assert torch.equal(got.values, values) and torch.equal(got.indices, indices)


@pytest.mark.parametrize("order", ["equal", "ascending", "descending"])
def test_topk_is_exact_when_the_candidates_overflow(order, product):
    # All equal, or every value better than the last: each element survives and the buffer is cut back all the time.
    f, k = 5000, 7
    ramp = {"equal": torch.zeros(f), "ascending": torch.arange(f), "descending": -torch.arange(f)}[order].float()
    x, w = torch.ones(3, 2), torch.zeros(f, 2)
    values, indices = reference.topk_encode(x, w, ramp, k)
    got = ops.topk_encode(x, w, ramp, k)
    assert torch.equal(got.indices, indices) and torch.equal(got.values, values)


def test_topk_of_infinities_and_nan():
    x = torch.ones(3, 1)
    w = torch.zeros(6, 1)
    b = torch.tensor([-torch.inf, 1.0, -torch.inf, torch.inf, -torch.inf, -torch.inf])
    got = ops.topk_encode(x, w, b, 4)
    assert got.indices[0].tolist() == [3, 1, 0, 2] and got.values[0].tolist() == [torch.inf, 1, 0, 0]
    x[1] = torch.nan
    got = ops.topk_encode(x, w, b, 4)
    assert got.values[1].isnan().all() and not got.values[[0, 2]].isnan().any()
    assert ops.threshold_encode(x, w, torch.ones(6)).values[6:12].isnan().all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_threshold_is_the_definition(shape, dtype, product):
    n, d, f, _ = shape
    x, w, b = encoder(n, d, f, dtype)
    got = ops.threshold_encode(x, w, b)
    pre = x.double() @ w.double().T + b.double()
    dense = got.to_dense().double()
    within_twice(got.to_dense(), plainly(lambda x, w, b: (x @ w.T + b).relu(), x, w, b), pre.relu())
    if dtype == torch.float32:  # what is clearly on one side of 0 is on that side here
        clear = pre.abs() > 1e-5
        assert torch.equal((dense > 0)[clear], (pre > 0)[clear])
    for row in range(n):
        mine = got.indices[got.offsets[row] : got.offsets[row + 1]]
        assert (mine.diff() > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_above_a_threshold_per_feature_are_the_definition(shape, dtype, product):
    n, d, f, _ = shape
    x, w, b = encoder(n, d, f, dtype)
    threshold = here(torch.linspace(-0.5, 2.0, f, device="cpu").to(dtype))
    got = ops.threshold_encode(x, w, b, threshold)
    pre = x.double() @ w.double().T + b.double()
    near = 1e-5 * (1 + (pre - threshold).abs().amax()) if n else 0
    active = torch.zeros_like(pre, dtype=torch.bool)
    active[got.row_ids(), got.indices.long()] = True
    assert active[pre > threshold + near].all() and not active[pre < threshold - near].any()
    plain = plainly(lambda x, w, b: x.float() @ w.float().T + b.float(), x, w, b)
    within_twice(got.values, plain[active].to(dtype), pre[active])


def test_entries_on_their_threshold_are_not_above_it(product):
    # Products of small integers are exact in fp32: an entry equal to its threshold has no place in the code.
    g = torch.Generator().manual_seed(3)
    rows = 5 if gpu.interpreted() else 67
    x, w = (here(torch.randint(-2, 3, (n, 24), generator=g, device="cpu").float()) for n in (rows, 3001))
    b, threshold = (here(torch.randint(-3, 8, (3001,), generator=g, device="cpu").float()) for _ in range(2))
    pre = x @ w.T + b
    assert (pre == threshold).any()
    got = ops.threshold_encode(x, w, b, threshold)
    assert torch.equal(got.to_dense(), torch.where(pre > threshold, pre, 0))
    assert torch.equal(got.offsets.diff(), (pre > threshold).sum(1))


@pytest.mark.parametrize("kind", ["topk", "threshold"])
def test_encoder_gradients(kind):
    n, d, f, k = 40, 19, 301, 6
    x, w, b = encoder(n, d, f)

    def run(x, w, b):
        leaves = [t.detach().clone().requires_grad_() for t in (x, w, b)]
        if kind == "topk":
            code = ops.topk_encode(*leaves, k)
        else:
            code = ops.threshold_encode(*leaves)
        weight = torch.linspace(-1, 1, code.values.numel(), dtype=x.dtype).view(code.values.shape)
        (code.values * weight).sum().backward()
        return [t.grad for t in leaves]

    def plain(x, w, b):
        leaves = [t.detach().clone().requires_grad_() for t in (x, w, b)]
        pre = leaves[0] @ leaves[1].T + leaves[2]
        if kind == "topk":
            values = pre.sort(dim=1, descending=True, stable=True).values[:, :k].relu()
        else:
            values = pre[pre > 0]
        (values * torch.linspace(-1, 1, values.numel(), dtype=x.dtype).view(values.shape)).sum().backward()
        return [t.grad for t in leaves]

    for ours, theirs, exact in zip(
        run(x, w, b), plainly(plain, x, w, b), plain(x.double(), w.double(), b.double()), strict=True
    ):
        within_twice(ours, theirs, exact)


def test_no_gradient_where_the_value_is_not_positive():
    x, w, b = encoder(9, 8, 20)
    w.requires_grad_()
    code = ops.topk_encode(x, w, b - 100, 5)
    assert (code.values == 0).all()
    code.values.sum().backward()
    assert (w.grad == 0).all()


def test_gradcheck():
    x, w, b = (t.double().requires_grad_() for t in encoder(4, 3, 6))
    assert torch.autograd.gradcheck(lambda *a: ops.topk_encode(*a, 3).values, (x, w, b))
    assert torch.autograd.gradcheck(lambda *a: ops.threshold_encode(*a).values, (x, w, b))


def test_any_leading_shape_and_strides():
    x, w, b = encoder(24, 10, 31)
    flat = ops.topk_encode(x, w, b, 3)
    code = ops.topk_encode(x.view(2, 3, 4, 10), w, b, 3)
    assert code.values.shape == (2, 3, 4, 3) and torch.equal(code.indices.view(24, 3), flat.indices)
    assert ops.topk_encode(x[0], w, b, 3).values.shape == (3,)
    strided = torch.randn(10, 48).T[::2]
    same = ops.topk_encode(strided, w.T.contiguous().T, b, 3)
    assert torch.equal(same.indices, ops.topk_encode(strided.contiguous(), w, b, 3).indices)
    assert torch.equal(ops.threshold_encode(strided, w, b).to_dense(), (strided @ w.T + b).relu()) or torch.allclose(
        ops.threshold_encode(strided, w, b).to_dense(), (strided @ w.T + b).relu(), atol=1e-5
    )


def test_the_same_for_any_number_of_threads(native_only):
    x, w, b = encoder(300, 40, 2500)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.topk_encode(x, w, b, 9), ops.threshold_encode(x, w, b)
        torch.set_num_threads(2)
        two = ops.topk_encode(x, w, b, 9), ops.threshold_encode(x, w, b)
    finally:
        torch.set_num_threads(before)
    for a, c in zip(one, two, strict=True):
        assert torch.equal(a.indices, c.indices)


def test_rows_with_too_many_candidates_are_redone(monkeypatch, native_only):
    # Products in bf16 with far more near-ties than the buffer holds: flagged, redone in fp32, still exact.
    monkeypatch.setattr(backend, "cpu_product", lambda: "bf16")
    f = 8000
    x, w = torch.ones(2, 4), torch.full((f, 4), 0.25)
    b = torch.linspace(0, 1e-4, f)
    used = []
    tiles = selection_cpu._tiles
    monkeypatch.setattr(selection_cpu, "_tiles", lambda *a: (used.append(a[-1]), tiles(*a))[1])
    got = ops.topk_encode(x, w, b, 4)
    assert used == [False, True]  # exact: no, then yes
    assert torch.equal(got.indices, reference.topk_encode(x, w, b, 4)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w, b: (x[:, :-1], w, b, 2), "x: got shape"),
        (lambda x, w, b: (x, w, b[:-1], 2), "b: got shape"),
        (lambda x, w, b: (x.half(), w, b, 2), "x: got torch.float16, but w is torch.float32"),
        (lambda x, w, b: (x.half(), w.half(), b.half(), 2), "wanted float32, bfloat16 or float64"),
        (lambda x, w, b: (x.to("meta"), w, b, 2), "on meta, but w is on "),
        (lambda x, w, b: (x, w, b, 0), "k: got 0; wanted an integer from 1 to d_sae=5"),
        (lambda x, w, b: (x, w, b, 6), "k: got 6"),
        (lambda x, w, b: (x, w, b, True), "k: got True"),
        (lambda x, w, b: (x, w, b, 2, None, b[:-1]), r"frequency: got shape \[4\]; wanted \[5\]"),
        (lambda x, w, b: (x, w, b, 2, None, b.double()), "frequency: got torch.float64, but w is torch.float32"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        ops.topk_encode(*change(*encoder(3, 4, 5)))
