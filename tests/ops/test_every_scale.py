"""The choice is that of fp32 at every scale that fp32 has, by every product: no margin is lost to underflow."""

import pytest
import torch
from ops.cases import here

from monosem import ops
from monosem.ops import backend, gpu, reference
from monosem.ops.selection import cpu as selection_cpu
from monosem.ops.selection import cpu_integers

pytestmark = pytest.mark.usefixtures("device")
IN_PYTHON = gpu.interpreted()  # its programs run one after the other, in Python
SCALES = (
    [1e-25]
    if IN_PYTHON
    else [1e15, 1e9, 1.0, 1e-9, 1e-14, 1e-16, 1e-19, 1e-22, 1e-25, 1e-31, 1e-37, 1e-38, 1e-40, 1e-44]
)


def same_choice(x, w, b, k):
    """Of rows that fp32 can tell apart from float64: the set that is chosen, and what is active."""
    pre = x.double() @ w.double().T + b.double()
    # What fp32 may be off by: rounding, and what it cannot hold.
    slack = 4e-6 * (x.double().norm(dim=1)[:, None] * w.double().norm(dim=1) + b.double().abs()) + 1e-43
    got = ops.topk_encode(x, w, b, k)
    bar = pre.sort(dim=1, descending=True).values[:, k - 1 : k]
    taken = torch.zeros_like(pre, dtype=torch.bool).scatter_(1, got.indices.long(), True)
    assert (taken | ~(pre - slack > bar + slack.amax(1, keepdim=True))).all(), "lost"
    assert (~taken | (pre + slack >= bar - slack.amax(1, keepdim=True))).all(), "chosen wrongly"
    active = ops.threshold_encode(x, w, b).to_dense() > 0
    assert (active | ~(pre > slack)).all() and (~active | (pre > -slack)).all()


@pytest.mark.parametrize("of_w", [1.0] if IN_PYTHON else [1.0, 1e-20, 1e12])
@pytest.mark.parametrize("scale", SCALES)
def test_rows_of_one_scale(scale, of_w, product):
    g = torch.Generator().manual_seed(0)
    n, f = (3, 150) if IN_PYTHON else (40, 500)
    x, w = (here(torch.randn(size, 24, generator=g, device="cpu")) for size in (n, f))
    same_choice(x * scale, w * of_w, torch.zeros(f), 7)


def test_rows_of_mixed_scales(product):
    g = torch.Generator().manual_seed(1)
    n, f = (4, 150) if IN_PYTHON else (90, 500)
    x, w, b = (torch.randn(*size, generator=g, device="cpu") for size in ((n, 24), (f, 24), (f,)))
    tens = torch.randint(-44, 13, (n, 1), generator=g, device="cpu").double()
    of_w = torch.randint(-40, 6, (f, 1), generator=g, device="cpu").double()
    x, w = (x * 10**tens).float(), (w * 10**of_w).float()
    x[:, 0], w[::5] = x[:, 0] * 1e-20, 0.0  # a row whose entries differ as much
    same_choice(*(here(t) for t in (x, w, torch.zeros(f))), 9)
    same_choice(*(here(t) for t in (x, w, b * 1e-30)), 9)


def test_a_large_bias_hides_nothing(product):
    # v + b is rounded to steps of 6e-5, far more than the product's own margin: ties that fp32 makes must stay ties.
    g = torch.Generator().manual_seed(2)
    x, w = (here(torch.randn(n, 8, generator=g, device="cpu") * 1e-3) for n in (5, 300))
    b = torch.full((300,), 1000.0)
    same_choice(x, w, b, 5)
    values, _ = reference.topk_encode(x, w, b, 5)
    got = ops.topk_encode(x, w, b, 5)
    assert (got.values - values).abs().max() <= 6.2e-5  # one step, where the sum in fp32 is a tie all but exactly


@pytest.mark.parametrize("d", [1, 2, 33, 700])
def test_no_bf16_product_exceeds_its_error_bound(d, native_only, monkeypatch):
    """Aligned rows that rounding moves as far as it can, all one way: 1 + 2⁻⁸ is half a step from both neighbours."""
    monkeypatch.setattr(backend, "cpu_product", lambda: "bf16")
    for low, high in ((1 + 2**-8, 1 + 2**-8), (1 + 3 * 2**-8 + 1e-6, 1 + 2**-8 - 1e-6), (1.0, 1 + 2**-8), (0.7, 0.9)):
        x, w = torch.full((3, d), low), torch.full((5, d), high)
        w[1] *= -1
        encoder = selection_cpu.Encoder(w, torch.zeros(5))
        (tile,) = [t for _, t in selection_cpu._tiles(x, w, False)]
        error = (tile.double() - x.double() @ w.double().T).abs()
        assert (error <= encoder._error_in_bf16(x)[:, None]).all()
        assert (
            encoder._error_in_bf16(x) <= 0.0125 * d * low * high + cpu_integers.TINY * 1e3
        ).all()  # and worth having
