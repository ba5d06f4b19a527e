"""Sums over long rows, of one sign and constant, lose at most twice what PyTorch's do: no chain grows with the row."""

import pytest
import torch
from ops.cases import here, plainly, within_twice

from monosem import ops
from monosem.ops import backend, gpu, reference

pytestmark = pytest.mark.usefixtures("device")
ROWS = {
    "normal": lambda *size, g: torch.randn(*size, generator=g, device="cpu"),
    "of one sign": lambda *size, g: torch.rand(*size, generator=g, device="cpu"),
    "far from 0": lambda *size, g: torch.rand(*size, generator=g, device="cpu") + 1,
    "constant": lambda *size, g: torch.full(size, 0.7, device="cpu"),
}
WIDTHS = [70] if gpu.interpreted() else [1, 15, 31, 57, 127, 768, 1031, 4096, 4111, 8192]


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("d", WIDTHS)
def test_decode_and_loss_of_long_rows(kind, d):
    for seed in range(1 if gpu.interpreted() else 3):
        g = torch.Generator().manual_seed(seed)
        n, f, k = 9, 60, (2, 20, 60)[seed]
        values, w, b, x = (ROWS[kind](*size, g=g) for size in ((n * k,), (f, d), (d,), (n, d)))
        values = torch.rand(n * k, generator=g, device="cpu") + 0.1 * values.abs()  # differ, or all tokens err alike
        indices = torch.cat([torch.randperm(f, generator=g, device="cpu")[:k].sort().values for _ in range(n)]).int()
        offsets = torch.arange(n + 1, device="cpu") * k
        values, indices, offsets, w, b, x = (here(t) for t in (values, indices, offsets, w / d**0.5, b, x * 3))
        args = values.double(), indices, offsets, w.double(), b.double(), x.double()
        ours = ops.decode_loss_rows(values, indices, offsets, w, b, x)
        plain = plainly(reference.decode_loss, values, indices, offsets, w, b, x)
        exact = reference.decode_loss(*args)
        for got, theirs, true in zip(ours, plain, exact, strict=True):
            within_twice(got, theirs, true)
        within_twice(
            ops.gather_dot(x, indices, offsets, w),
            plainly(reference.gather_dot, x, indices, offsets, w),
            reference.gather_dot(args[-1], indices, offsets, args[3]),
        )


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("product", ["fp32", "bf16", "int16", "int8"])
def test_chosen_values_of_long_rows(kind, product, native_only, monkeypatch):
    monkeypatch.setattr(backend, "cpu_product", lambda: product)
    for seed, d in enumerate(WIDTHS):
        g = torch.Generator().manual_seed(seed)
        x, w, b = (ROWS[kind](*size, g=g) for size in ((7, d), (90, d), (90,)))
        within_twice(
            ops.topk_encode(x, w, b, 9).values,
            reference.topk_encode(x, w, b, 9)[0],
            reference.topk_encode(x.double(), w.double(), b.double(), 9)[0],
        )


def test_infinite_sums_stay_infinite(native_only):
    """What rounding took off a sum is not a number once the sum is infinite."""
    x = torch.full((2, 100), 1e25)
    offsets = torch.tensor([0, 1, 2])
    loss, _, slopes = ops.decode_loss_rows(
        torch.ones(2), torch.zeros(2, dtype=torch.int32), offsets, torch.full((3, 100), 1e25), torch.zeros(100), -x
    )
    assert (loss == torch.inf).all() and (slopes == torch.inf).all()
