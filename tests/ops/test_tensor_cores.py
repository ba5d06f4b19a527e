"""The bound on the encoder's product holds for what tensor cores really do: they add many products at once and cut off.

On a GPU the rows meet its own tensor cores. In Triton's interpreter they meet those of two chips, by what was published
about them: a step adds ``TOGETHER`` products to the sum, all cut off ``BITS`` below the leading bit of the largest, and
cuts the result off to fp32 (Xie et al., "MMA-Sim", arXiv 2511.10909).
"""

import numpy as np
import pytest
import torch
from ops.cases import here

from monosem.ops import gpu
from monosem.ops.gpu import available

if available("triton"):
    pytest.skip(available("triton"), allow_module_level=True)
pytestmark = pytest.mark.usefixtures("device", "triton_only")
CHIPS = {"Ampere": (8, 24), "Hopper": (16, 25)}
WIDTHS = [4096, 8192]


def exponents(v):
    return np.frexp(np.where(v == 0, 2.0**-300, v))[1] - 1


def tensor_cores(a, b, acc, together, bits):
    """a [M, K] · b [K, N] + acc, K products in steps."""
    a, b, acc = (t.astype(np.float64) for t in (a, b, acc))
    high, wide = exponents(a), exponents(b)
    for k in range(0, a.shape[1], together):
        s = slice(k, k + together)
        products = a[:, s, None] * b[None, s, :]
        largest = np.maximum((high[:, s, None] + wide[None, s, :]).max(1), exponents(acc))
        unit = np.ldexp(1.0, largest - bits)
        acc = (np.trunc(products / unit[:, None]).sum(1) + np.trunc(acc / unit)) * unit
        last = np.ldexp(1.0, exponents(acc) - 23)
        acc = np.trunc(acc / last) * last
    return acc.astype(np.float32)


@pytest.fixture(params=CHIPS if gpu.interpreted() else ["this GPU's"])
def chip(request, monkeypatch):
    """The chips that are meant; the interpreter's products are made as this one makes them, in small tiles."""
    if request.param not in CHIPS:
        return list(CHIPS.values())
    from triton.runtime import interpreter

    from monosem.kernels import launch

    def dot(self, a, b, d, *_):
        return interpreter.TensorHandle(tensor_cores(a.data, b.data, d.data, *CHIPS[request.param]), d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    monkeypatch.setitem(launch._INTERPRETER, "collect", {"BM": 16, "BN": 16})
    return [CHIPS[request.param]]


def upper_bounds(x, w, b):
    from monosem.ops.selection.triton import Problem

    f = len(w)
    keys, _ = Problem(x, w, b).collect(torch.zeros(len(x)), 1 << f.bit_length(), True)
    rank = (keys[:, :f] >> 32).int()
    return (rank ^ ((rank >> 31) & 0x7FFFFFFF)).view(torch.float32)


def holds(x, w):
    """The bound is above the value in float64, and the one in fp32, and not by much."""
    b = torch.zeros(len(w))
    upper = upper_bounds(x, w, b).double()
    exact = x.double() @ w.double().T
    assert (upper >= exact).all(), f"{((exact - upper) / exact).amax():.3g} of the value too low"
    assert (upper >= (x @ w.T).double()).all()
    assert (upper - exact <= 2.0**-6 * x.norm(dim=1)[:, None] * w.norm(dim=1)[None, :]).all()


@pytest.mark.parametrize("d", WIDTHS)
def test_rows_of_one_sign(d, chip):
    g = torch.Generator().manual_seed(d)
    x, w = (torch.rand(n, d, generator=g, device="cpu") for n in (4, 10))
    w[0], w[1], w[2] = x[0], 1.0, torch.rand(d, generator=g, device="cpu") ** 8  # aligned, equal, of many sizes
    x[1] = 1.0
    holds(here(x), here(w / d**0.5))


@pytest.mark.parametrize("d", WIDTHS)
def test_rows_with_the_largest_truncation(d, chip):
    """One large product, and the others just below two units of what is kept beside it: a unit of each is lost, and
    where the units left are odd in number, the one that fp32 has no place for. All are exact in bf16."""
    for together, bits in chip:
        x = torch.full((2, d), (2 - 2**-7) * 2.0 ** -(bits // 2), device="cpu")
        w = torch.full((3, d), 2.0 ** -(bits - bits // 2), device="cpu")
        w[0] /= 2  # just below one unit: lost
        w[1, together - 1 :: together] /= 2  # so that a step keeps an odd number of units
        x[:, 0] = w[:, 0] = 1
        assert torch.equal(x.bfloat16().float(), x) and torch.equal(w.bfloat16().float(), w)
        holds(here(x), here(w))
