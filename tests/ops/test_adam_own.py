"""The term of a penalty on the norms of rows: multiples of the row itself, a block of columns each, in its gradient."""

import pytest
import torch
from ops.cases import code, here

from monosem import ops
from monosem.ops import adam, gpu, reference
from monosem.ops.structs import Moments

pytestmark = pytest.mark.usefixtures("device")
HYPER = (1e-2, 0.9, 0.99, 1e-8, 7)
SMALL = gpu.interpreted()
# (tokens, D, F, B): blocks of odd and of even width, one feature, one column per block, no token, a row in two tiles.
SIZES = [(12, 37, 8, 1), (12, 34, 9, 2), (12, 15, 10, 3), (9, 33, 1, 3), (6, 5, 4, 5), (0, 6, 3, 2), (9, 130, 7, 2)]
FEW = (12, 33, 8) if SMALL else (30, 33, 12)  # tokens, D, F
SPARSE = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
UNIT = pytest.mark.parametrize("unit", [False, True], ids=["free", "unit"])


def normal(*size, seed=0):
    return here(torch.randn(*size, generator=torch.Generator().manual_seed(seed), device="cpu"))


class Problem:
    """A code, rows of any norm, moments of any value kept as ``kind``, and multiples of both signs, some of them 0."""

    def __init__(self, n, d, f, blocks, kind="fp32", unit=False):
        self.values, indices, offsets = code(n, d, f)
        self.csc, self.u = ops.csc(indices, offsets, f), normal(n, d, seed=1)
        self.own = normal(f, blocks, seed=2)
        self.own[f // 2, 0] = 0.0
        w = normal(f, d, seed=3) / d**0.5
        m, v = normal(f, d, seed=4) * 1e-2, normal(f, d, seed=5).square() * 1e-3 + 1e-4
        kept = [torch.empty(f, d).to(dtype).zero_() for dtype in adam.DTYPES[kind]]
        self.scales = torch.zeros(2, f) if kind == "int8" else None
        adam.write_moments_(Moments(*kept, self.scales), m, v, torch.ones(f, 1, dtype=torch.bool), 1)
        self.state = [torch.nn.functional.normalize(w, dim=-1) if unit else w, *kept]

    def gradient(self, dtype=torch.float64):
        """0.5 · row_grad."""
        return reference.row_grad(*self.csc, self.values.to(dtype), self.u.to(dtype)) * 0.5

    def penalty(self, dtype=torch.float64):
        """own[f, b] · w[f, block b]."""
        w, own = self.state[0].to(dtype), self.own.to(dtype)
        f, blocks = own.shape
        return (own[:, :, None] * w.view(f, blocks, w.shape[1] // blocks)).flatten(1)

    def step(self, sparse, unit, hyper=HYPER, own=None, **options):
        """(w, m, v) and scales after a step of the operation."""
        state = [t.clone() for t in self.state]
        scales = None if self.scales is None else self.scales.clone()
        if sparse:
            ops.row_grad_adam_(
                *state, *self.csc, self.values, self.u, 0.5, *hyper, unit, scales=scales, own=own, **options
            )
        else:
            g = self.gradient().float()
            ops.row_adam_(*state, g, *hyper, unit, scales=scales, own=own, **options)
        return state, scales


@SPARSE
@UNIT
@pytest.mark.parametrize("size", SIZES)
def test_it_is_a_term_of_the_gradient(size, unit, sparse):
    """w, m and v of a step in float64 whose gradient has the term in it."""
    p = Problem(*size, unit=unit)
    exact = [t.double() for t in p.state]
    reference.row_adam_(*exact, p.gradient() + p.penalty(), *HYPER, unit)
    mine, _ = p.step(sparse, unit, own=p.own)
    # Weights ≤ 1 and steps of 1e-2, each rounded; m and v keep the error of a gradient whose terms may cancel.
    assert (mine[0].double() - exact[0]).abs().max() < 2e-7
    torch.testing.assert_close(mine[1].double(), exact[1], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(mine[2].double(), exact[2], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("size", SIZES[1:4] if SMALL else [size for size in SIZES if size[0]])
def test_it_is_the_gradient_of_a_penalty_on_norms(size):
    """Σ c[f, b] · ‖w[f, block b]‖ by autograd and torch.optim.Adam."""
    p = Problem(*size)
    f, d, blocks = *p.state[0].shape, p.own.shape[1]
    w = torch.nn.Parameter(p.state[0].double())
    optimizer = torch.optim.Adam([w], lr=HYPER[0], betas=HYPER[1:3], eps=HYPER[3])
    c = p.own.double().abs() + 0.1
    norms = w.view(f, blocks, d // blocks).norm(dim=-1)
    ((c * norms).sum() + (w * p.gradient()).sum()).backward()
    gradient = w.grad.clone()
    optimizer.step()
    p.state[1:] = torch.zeros(f, d), torch.zeros(f, d)
    hyper = (*HYPER[:4], 1)
    mine, _ = p.step(True, False, hyper, own=(c / norms.detach()).float())
    # The first step is lr · sign(g): compared where the terms of g do not cancel to the sign of a rounding.
    clear = gradient.abs() >= 1e-3 * gradient.abs().amax()
    assert (mine[0].double() - w.detach()).abs()[clear].max() < 2e-7
    torch.testing.assert_close(mine[1].double(), 0.1 * gradient, rtol=1e-5, atol=1e-6)


def test_in_float64_it_is_the_definition():
    p = Problem(30, 34, 9, 2)
    exact, mine = ([t.double() for t in p.state] for _ in range(2))
    reference.row_adam_(*exact, p.gradient() + p.penalty(), *HYPER, False)
    ops.row_grad_adam_(*mine, *p.csc, p.values.double(), p.u.double(), 0.5, *HYPER, False, own=p.own.double())
    for a, b in zip(mine, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@SPARSE
@UNIT
@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_moments_in_fewer_bits(kind, unit, sparse):
    """The step of fp32 moments of the same values, and the new ones as the definition keeps them."""
    p = Problem(*FEW, 3, kind, unit)
    mine, scales = p.step(sparse, unit, own=p.own)
    defined, defined_scales = [t.clone() for t in p.state], None if p.scales is None else p.scales.clone()
    g = p.gradient(torch.float32) + p.penalty(torch.float32)
    reference.row_adam_(*defined, g, *HYPER, unit, scales=defined_scales)
    exact = [p.state[0].double(), *(t.double() for t in adam.read_moments(Moments(*p.state[1:], p.scales)))]
    reference.row_adam_(*exact, p.gradient() + p.penalty(), *HYPER, unit)
    torch.testing.assert_close(mine[0].double(), exact[0], rtol=0, atol=4e-7)
    for kept, wanted in zip(mine[1:], defined[1:], strict=True):
        # The same noise: they differ only where sums of another order fall on the other side of it.
        difference = (kept.float() - wanted.float()).abs()
        assert (difference == 0).float().mean() > 0.99
        assert kind == "bf16" or difference.max() <= 1
    if scales is not None:
        torch.testing.assert_close(scales, defined_scales, rtol=1e-5, atol=0)


@SPARSE
@UNIT
@pytest.mark.parametrize("kind", adam.STATES)
def test_lazy_rows_with_a_multiple_are_updated(kind, unit, sparse):
    """Rows without entries, or with a gradient of 0, are left alone where their multiples are 0 in every block."""
    n, f = (12, 14) if SMALL else (50, 40)
    p = Problem(n, 34, f, 2, kind, unit)
    counts = p.csc[0].diff()
    quiet = counts.argsort(descending=True)[:3].tolist()  # entries they have, but no gradient
    idle = (counts == 0).nonzero().flatten().tolist()
    if len(idle) < 3:  # a code of every feature
        starts, entries, tokens = p.csc
        empty = counts.argsort()[:3].tolist()
        gone = torch.cat([torch.arange(int(starts[row]), int(starts[row + 1])) for row in empty])
        left = torch.ones(len(entries), dtype=torch.bool)
        left[gone] = False
        counts[empty] = 0
        p.csc = torch.cat([starts[:1], counts.cumsum(0)]), entries[left], tokens[left]
        idle = empty
    p.values = p.values.clone()
    for row in quiet:
        p.values[p.csc[1][p.csc[0][row] : p.csc[0][row + 1]]] = 0.0
    p.own = torch.zeros(f, 2)
    second, both = (quiet[1], idle[1]), (quiet[2], idle[2])
    p.own[list(second), 1] = 0.5
    p.own[list(both)] = -0.25
    busy = next(row for row in range(f) if row not in quiet and row not in idle)
    assert counts[busy] and not p.own[busy].any()
    lazy, lazy_scales = p.step(sparse, unit, lazy=True, own=p.own)
    eager, eager_scales = p.step(sparse, unit, own=p.own)
    still = counts == 0
    still[quiet] = True
    still[[*second, *both]] = False
    assert 2 <= still.sum() < f and not still[busy]
    for mine, before, moved in zip(lazy, p.state, eager, strict=True):
        assert torch.equal(mine[still], before[still])
        assert torch.equal(mine[~still], moved[~still])
    assert not torch.equal(lazy[0][list(second)], p.state[0][list(second)])
    if p.scales is not None:
        assert torch.equal(lazy_scales[:, still], p.scales[:, still])
        assert torch.equal(lazy_scales[:, ~still], eager_scales[:, ~still])


@SPARSE
def test_projected_it_cancels_in_unit_rows(sparse):
    """One multiple per row is parallel to the row."""
    p = Problem(30, 37, 12, 1, unit=True)
    with_it, _ = p.step(sparse, True, own=p.own)
    without, _ = p.step(sparse, True)
    torch.testing.assert_close(with_it[0], without[0], rtol=0, atol=4e-7)
    torch.testing.assert_close(with_it[1], without[1], rtol=0, atol=1e-6)


@SPARSE
@UNIT
@pytest.mark.parametrize("kind", adam.STATES)
def test_multiples_of_0_change_no_bit(kind, unit, sparse):
    p = Problem(*FEW, 3, kind, unit)
    (with_it, its_scales), (without, scales) = p.step(sparse, unit, own=p.own * 0), p.step(sparse, unit)
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))
    assert scales is None or torch.equal(its_scales, scales)


@SPARSE
@UNIT
def test_the_same_bits_every_time(unit, sparse):
    p = Problem(*((12, 36, 6) if SMALL else (40, 36, 300)), 2, unit=unit)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            runs.append(p.step(sparse, unit, own=p.own)[0])
    finally:
        torch.set_num_threads(before)
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], again, strict=True))


@SPARSE
@UNIT
def test_factors_on_the_device_equal_those_of_the_host(unit, sparse):
    p = Problem(30, 34, 9, 2, unit=unit)
    lr, beta1, beta2, eps, step = HYPER
    live = adam.live_factors(beta1, beta2, eps, p.u.device)
    adam.set_live_(live, here(torch.tensor(lr, dtype=torch.float64)), here(torch.tensor(step)), beta1, beta2)
    by_number, _ = p.step(sparse, unit, own=p.own)
    by_memory, _ = p.step(sparse, unit, (9.0, 0.1, 0.2, 1.0, 77), own=p.own, live=live)
    torch.testing.assert_close(by_memory[0], by_number[0], rtol=0, atol=2e-7)
    for mine, wanted in zip(by_memory[1:], by_number[1:], strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=2e-6)


@SPARSE
def test_it_may_be_strided_and_of_another_float_type(sparse):
    p = Problem(30, 34, 9, 2)
    p.own = p.own.bfloat16().float()
    wanted, _ = p.step(sparse, False, own=p.own)
    for own in (p.own.T.contiguous().T, p.own.bfloat16()):
        mine, _ = p.step(sparse, False, own=own)
        assert all(torch.equal(a, b) for a, b in zip(mine, wanted, strict=True))


@SPARSE
@pytest.mark.parametrize(
    ("shape", "got"), [((9,), r"\[9\]"), ((8, 2), r"\[8, 2\]"), ((9, 4), r"\[9, 4\]"), ((9, 0), r"\[9, 0\]")]
)
def test_a_shape_that_does_not_fit_is_refused(shape, got, sparse):
    p = Problem(30, 34, 9, 2)
    with pytest.raises(
        ValueError, match=rf"own: got {got} for w of \[9, 34\]; wanted \[9, B\], B a divisor of 34\. Give"
    ):
        p.step(sparse, False, own=torch.zeros(*shape))


def test_the_encoder_has_no_such_term():
    p = Problem(30, 34, 9, 2)
    with pytest.raises((TypeError, RuntimeError), match="own"):
        ops.encoder_grad_adam_(*p.state, *p.csc, p.values, p.u, None, *HYPER, own=p.own)
