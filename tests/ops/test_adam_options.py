"""Adam with less memory and less work: moments in 16 and 8 bits, rows left alone, factors and copies on the device."""

import pytest
import torch
from ops.cases import code, here, plainly, within_twice

from monosem import ops
from monosem.ops import adam, gpu, reference
from monosem.ops.selection import dithered
from monosem.ops.structs import Moments

pytestmark = pytest.mark.usefixtures("device")
SMALL = gpu.interpreted()
HYPER = (1e-2, 0.9, 0.999, 1e-8, 3)


def state_of(kind: str, f: int, d: int) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Weights and moments of any value, kept as ``kind``."""
    m, v = torch.randn(f, d) * 0.1, torch.rand(f, d).square() * 0.01
    m[0], v[0] = 0.0, 0.0  # a feature that never fired
    kept = [torch.empty(f, d).to(dtype).zero_() for dtype in adam.DTYPES[kind]]
    scales = torch.zeros(2, f) if kind == "int8" else None
    adam.write_moments_(Moments(*kept, scales), m, v, torch.ones(f, 1, dtype=torch.bool), 1)
    return [torch.nn.functional.normalize(torch.randn(f, d), dim=-1), *kept], scales


def problem(*size):
    n, d, f = size or ((12, 37, 9) if SMALL else (50, 37, 40))
    values, indices, offsets = code(n, d, f)
    csc = ops.csc(indices, offsets, f)
    return csc, values, torch.randn(n, d), (f, d)


def is_rounded(copy, w):
    """To the nearest; Triton's interpreter, and no GPU, cuts off instead."""
    assert ((copy.float() - w).abs() <= 2.0**-7 * w.abs()).all() if SMALL else torch.equal(copy, w.bfloat16())


def clones(state, scales):
    return [t.clone() for t in state], None if scales is None else scales.clone()


def take(state, scales, csc, values, u, sparse, unit, lazy=False, live=None, copy=None, norms=None, hyper=HYPER):
    options = (*hyper, unit, lazy, live, scales, copy, norms)
    if sparse:
        ops.row_grad_adam_(*state, *csc, values, u, 1.0, *options)
    else:
        ops.row_adam_(*state, ops.row_grad(*csc, values, u), *options)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_moments_in_fewer_bits(kind, unit, sparse):
    """A step from any moments is that of fp32, and what is kept of the new ones is what the definition keeps."""
    csc, values, u, (f, d) = problem()
    state, scales = state_of(kind, f, d)
    low, low_scales = clones(state, scales)
    again, again_scales = clones(state, scales)
    defined, defined_scales = clones(state, scales)
    full = [state[0].clone(), *(t.clone() for t in adam.read_moments(Moments(*state[1:], scales)))]
    take(low, low_scales, csc, values, u, sparse, unit)
    take(again, again_scales, csc, values, u, sparse, unit)
    take(full, None, csc, values, u, sparse, unit)
    reference.row_adam_(*defined, reference.row_grad(*csc, values, u), *HYPER, unit, scales=defined_scales)
    assert all(torch.equal(a, b) for a, b in zip(low, again, strict=True))  # the same bits every time
    torch.testing.assert_close(low[0], full[0], rtol=0, atol=2e-7)  # 8 bits are decoded with one rounding more or less
    for mine, wanted in zip(low[1:], defined[1:], strict=True):
        # The same noise: they differ only where sums of another order fall on the other side of it.
        difference = (mine.float() - wanted.float()).abs()
        assert (difference == 0).float().mean() > 0.99
        if kind == "int8":
            assert difference.max() <= 1
    kept = adam.read_moments(Moments(*low[1:], low_scales))
    if kind == "bf16":
        for mine, exact in zip(kept, full[1:], strict=True):  # one step of bf16 at most, 2⁻⁷ of the value
            assert ((mine - exact).abs() <= exact.abs() * 2.0**-7).all()
    else:
        torch.testing.assert_close(low_scales, defined_scales, rtol=1e-5, atol=0)
        for mine, exact, steps in ((kept[0].abs(), full[1].abs(), 127), (kept[1].sqrt(), full[2].sqrt(), 255)):
            most = exact.amax(-1, keepdim=True)
            # From q² to (q + 1)² of steps² is 2q + 1, with q = steps · √(value / most).
            step = (2 * steps * (exact / most.clamp(min=1e-30)).sqrt() + 3) / steps**2 * most
            assert ((mine - exact).abs() <= step * 1.001).all()
        assert (kept[1][full[2] > 0] > 0).all()


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_rounding_is_right_on_average(kind):
    """v moves by a thousandth of itself a step: to the nearest in bf16 it would never move."""
    f, d, steps = (40, 64, 30) if SMALL else (300, 64, 400)
    w, m, v = torch.zeros(f, d), *(torch.zeros(f, d).to(dtype) for dtype in adam.DTYPES[kind])
    scales = torch.zeros(2, f) if kind == "int8" else None
    spread = torch.linspace(0.5, 1.0, d).expand(f, d)  # columns of different sizes share a scale
    ones = torch.ones(f, 1, dtype=torch.bool)
    adam.write_moments_(Moments(m, v, scales), torch.zeros(f, d), spread.square(), ones, 0)
    for step in range(1, steps + 1):
        ops.row_adam_(w, m, v, 0.3 * spread, 1e-3, 0.9, 0.999, 1e-8, step, False, False, None, scales)
    kept_m, kept_v = adam.read_moments(Moments(m, v, scales))
    exact_v = (0.09 + 0.91 * 0.999**steps) * spread.square()
    exact_m = 0.3 * (1 - 0.9**steps) * spread
    # f independent walks a column of steps of at most 1 % (2⁻⁸ and 2/127 or 2/255 of the value): the mean over all is
    # well within a thousandth and a half. In int8 it is the mean of √v that is right, and that of v a little larger.
    assert abs((kept_m / exact_m).double().mean() - 1) < (6e-3 if SMALL else 1.5e-3)
    if kind == "bf16":
        assert abs((kept_v / exact_v).double().mean() - 1) < (6e-3 if SMALL else 2e-3)
    else:
        assert abs((kept_v / exact_v).sqrt().double().mean() - 1) < (6e-3 if SMALL else 2e-3)
    assert kept_v.std(dim=0).median() > 0  # rows do not move together


@pytest.mark.parametrize("kind", adam.STATES)
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_lazy_rows_are_left_alone(kind, unit, sparse):
    csc, values, u, (f, d) = problem()
    counts = csc[0].diff()
    values = values.clone()
    quiet = int(counts.argmax())  # entries it has, but no gradient
    values[csc[1][csc[0][quiet] : csc[0][quiet + 1]]] = 0.0
    state, scales = state_of(kind, f, d)
    copy, norms = state[0].bfloat16(), torch.full((2, f), 7.0)
    lazy, lazy_scales = clones(state, scales)
    eager, eager_scales = clones(state, scales)
    take(lazy, lazy_scales, csc, values, u, sparse, unit, lazy=True, copy=copy, norms=norms)
    take(eager, eager_scales, csc, values, u, sparse, unit)
    still = counts == 0
    still[quiet] = True
    assert 0 < still.sum() < f
    for mine, before, moved in zip(lazy, state, eager, strict=True):
        assert torch.equal(mine[still], before[still])
        assert torch.equal(mine[~still], moved[~still])
    if scales is not None:
        assert torch.equal(lazy_scales[:, still], scales[:, still])
    is_rounded(copy, lazy[0])


@pytest.mark.parametrize("kind", adam.STATES)
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_factors_on_the_device_equal_those_of_the_host(kind, unit, sparse):
    """What a captured graph reads: other numbers in the launch have no say."""
    csc, values, u, (f, d) = problem()
    state, scales = state_of(kind, f, d)
    lr, beta1, beta2, eps, step = HYPER
    live = adam.live_factors(beta1, beta2, eps, state[0].device)
    adam.set_live_(live, here(torch.tensor(lr, dtype=torch.float64)), here(torch.tensor(step)), beta1, beta2)
    by_number, number_scales = clones(state, scales)
    by_memory, memory_scales = clones(state, scales)
    take(by_number, number_scales, csc, values, u, sparse, unit)
    take(by_memory, memory_scales, csc, values, u, sparse, unit, live=live, hyper=(9.0, 0.1, 0.2, 1.0, 77))
    torch.testing.assert_close(by_memory[0], by_number[0], rtol=0, atol=2e-7)
    for mine, wanted in zip(by_memory[1:], by_number[1:], strict=True):
        # The definition adds in another order: rounding of sums whose terms may cancel.
        far = (mine.float() - wanted.float()).abs() > 1e-6 * wanted.float().abs().amax()
        assert far.float().mean() < 0.01
    if gpu.interpreted() or by_number[0].device.type == "cuda":  # the same kernel: the same bits
        assert all(torch.equal(a, b) for a, b in zip(by_memory, by_number, strict=True))


@pytest.mark.parametrize("sparse", [False, True])
def test_the_copy_is_of_the_new_rows(sparse):
    csc, values, u, (f, d) = problem()
    state, _ = state_of("fp32", f, d)
    copy, norms = torch.zeros(f, 64).bfloat16(), torch.full((2, f), torch.nan)
    take(state, None, csc, values, u, sparse, False, copy=copy, norms=norms)
    is_rounded(copy[:, :d], state[0])
    assert not copy[:, d:].any()
    left = state[0] - copy[:, :d].float()
    torch.testing.assert_close(
        norms, torch.stack([state[0].norm(dim=-1), left.norm(dim=-1)]) * 1.001, rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_copy_in_8_bits_is_of_the_new_rows(sparse, unit):
    csc, values, u, (f, d) = problem()
    state, _ = state_of("fp32", f, d)
    copy, known = torch.full((f, dithered.padded(d)), 77, dtype=torch.int8), torch.full((4, f), torch.nan)
    take(state, None, csc, values, u, sparse, unit, copy=copy, norms=known)
    level, wanted = dithered.quantize(state[0].double(), dithered.FEATURE)
    torch.testing.assert_close(known[:3].double(), wanted[:3], rtol=1e-6, atol=0)
    # A number between two whole ones may be rounded either way by fp32; the offset is of what it became.
    off = (copy.int() - level.int()).abs()
    assert off.amax() <= 1 and off.float().mean() < 1e-3
    other = dithered.noise(copy.shape[1], dithered.TOKEN, copy.device)
    torch.testing.assert_close(known[3].double(), (copy.double() * other).sum(1) * wanted[2], rtol=1e-5, atol=1e-6)


def test_moments_that_do_not_go_together_are_refused():
    w = torch.zeros(4, 6)
    low = w.to(torch.int8), w.to(torch.uint8)
    hyper = (*HYPER, False, False, None)
    with pytest.raises(ValueError, match=r"m: got torch.int8, contiguous; wanted contiguous float32"):
        ops.row_adam_(w, *low, w.clone(), *hyper)
    with pytest.raises(ValueError, match=r"scales: got \[2, 3\] with moments of torch.int8 and torch.uint8; wanted"):
        ops.row_adam_(w, *low, w.clone(), *hyper, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"scales: got \[2, 4\] with moments of torch.float32"):
        ops.row_adam_(w, w.clone(), w.clone(), w.clone(), *hyper, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"m, v: got strided torch.bfloat16"):
        strided = torch.zeros(6, 4).bfloat16().T
        ops.row_adam_(w, strided, strided.clone(), w.clone(), *hyper)


@pytest.mark.parametrize("kind", adam.STATES)
@pytest.mark.parametrize(("lazy", "own_bias"), [(False, False), (True, True)])
@pytest.mark.parametrize(
    "size", [(200, 5, 3), (9, 33, 20)] if SMALL else [(50, 37, 40), (700, 5, 3), (3, 1, 1), (60, 3, 200_000)]
)
def test_the_encoder_in_one_sweep_is_the_operations_one_by_one(size, own_bias, lazy, kind):
    """The same bits of weights and moments; both sums, of the rows before, within the error budget. Twice the same."""
    csc, values, u, (f, d) = problem(*size)
    bias = torch.randn(len(values)) if own_bias else None
    state, scales = state_of(kind, f, d)
    options = (*HYPER, False, lazy, None)
    singly, single_scales = clones(state, scales)
    ops.row_grad_adam_(*singly, *csc, values, u, 1.0, *options, single_scales)
    exact = reference.feature_sum(*csc[:2], (values if bias is None else bias).double())
    plain = plainly(reference.feature_sum, *csc[:2], values if bias is None else bias)
    found = []
    for _ in range(2):
        mine, my_scales = clones(state, scales)
        copy, norms = mine[0].bfloat16(), torch.full((2, f), 7.0)
        sums, weighted = ops.encoder_grad_adam_(
            *mine, *csc, values, u, bias, *HYPER, lazy, None, my_scales, copy, norms
        )
        assert all(torch.equal(a, b) for a, b in zip(mine, singly, strict=True))
        assert scales is None or torch.equal(my_scales, single_scales)
        is_rounded(copy, mine[0])
        within_twice(sums, plain, exact)
        within_twice(weighted, plainly(torch.matmul, plain, state[0]), exact @ state[0].double())
        found.append((sums, weighted))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("lazy", [False, True])
def test_the_sums_of_no_tokens_are_0(lazy):
    """A rank may have none; the address of its empty arrays is null."""
    f, d = 40, 37
    csc = ops.csc(torch.empty(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int64), f)
    state, _ = state_of("fp32", f, d)
    sums, weighted = ops.encoder_grad_adam_(*state, *csc, torch.empty(0), torch.empty(0, d), None, *HYPER, lazy)
    assert torch.equal(sums, torch.zeros(f)) and torch.equal(weighted, torch.zeros(d))


def test_the_sums_do_not_depend_on_the_threads(native_only):
    csc, values, u, (f, d) = problem(60, 37, 200)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            state, _ = state_of("fp32", f, d)
            found.append((*ops.encoder_grad_adam_(*state, *csc, values, u, None, *HYPER, False), *state))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99), (0.9375, 0.9999)])
def test_a_step_counted_on_the_device_has_the_factors_of_the_host(betas, triton_only):
    """All eight numbers and the count, in fp32 as the host rounds them, however many steps there were."""
    lr = torch.tensor(3e-4, dtype=torch.float64)
    for before in (0, 1, 2, 9, 999, 123_456, 2**31 - 2):
        live, steps = adam.live_factors(*betas, 1e-8, lr.device), torch.tensor(before)
        gpu.advance_live_(live, lr, steps, *betas)
        wanted = adam.live_factors(*betas, 1e-8, lr.device)
        adam.write_live_(wanted, 3e-4, *betas, 1e-8, before + 1)
        assert steps.item() == before + 1
        assert torch.equal(live.view(torch.int32), wanted.view(torch.int32)), before
    gpu.advance_live_(live, lr.float(), torch.tensor(4), *betas)
    adam.write_live_(wanted, lr.float().item(), *betas, 1e-8, 5)
    assert torch.equal(live, wanted)
