"""The CUDA kernels, launchers, bindings and their Python side on the processor, against the definitions.

The very sources that nvcc compiles are compiled by g++ with a stand-in for CUDA's header (``tests/emulator``): threads
as fibers, blocks in random order, shared memory full of NaN. What an emulation cannot show is left to ``tests/gpu``.
"""

import inspect
import os
import subprocess
import sys

import pytest
import torch
from by_backend import implementations
from emulator import build, fenced
from ops import every_kernel
from ops.cases import code, within_twice

from monosem import ops
from monosem.ops import adam, cuda_launch, gpu, reference
from monosem.ops.structs import AdamStep, Moments

cuda = implementations("cuda")

pytestmark = pytest.mark.skipif(bool(build.missing()), reason=build.missing())
# (tokens, D, F): odd, one, none, D for 16-byte loads in fp32 only and in both types, wider than a tile, hot features.
SIZES = [(6, 5, 9), (1, 1, 1), (0, 4, 3), (23, 36, 77), (300, 16, 5), (20, 1160, 40), (12, 4100, 7), (12, 1031, 30)]
GUARD = 64  # elements around every buffer that a kernel is given


@pytest.fixture(scope="module")
def module(tmp_path_factory, request):
    cache = request.config.cache.mkdir("emulator")
    return build.load(build.build(cache))


@pytest.fixture(autouse=True)
def emulated(module, monkeypatch):
    """The emulated module; new buffers are full of NaN and stand between guards that nothing may overwrite."""
    guarded = []

    def empty(like, *shape, dtype=torch.float32):
        n = torch.Size(shape).numel()
        whole = torch.empty(n + 2 * GUARD, dtype=dtype)
        whole.fill_(torch.nan) if dtype.is_floating_point else whole.fill_(-77)
        guarded.append((whole, n))
        return whole[GUARD : GUARD + n].view(shape)

    monkeypatch.setattr(cuda_launch, "kernels", module)
    monkeypatch.setattr(cuda_launch, "stream", lambda t: 0)
    monkeypatch.setattr(cuda_launch, "empty", empty)
    yield
    for whole, n in guarded:
        edges = torch.cat([whole[:GUARD], whole[GUARD + n :]])
        assert (edges.isnan() if edges.is_floating_point() else edges == -77).all(), "written outside a buffer"


def weights(d, f, dtype=torch.float32, seed=3):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(f, d, generator=g) / d**0.5).to(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [0, 1])
def test_decode_and_loss(size, dtype, shift):
    n, d, f = size
    values, indices, offsets = code(n, d, f)
    # An address that is not a multiple of 16 takes the path of single columns.
    w = torch.empty(f * d + shift, dtype=dtype)[shift:].view(f, d).copy_(weights(d, f, dtype))
    x, b, values = torch.randn(n, d).to(dtype), w.float().mean(0).to(dtype), values.to(dtype)
    single = values.float(), indices, offsets, w.float(), b.float()
    double = values.double(), indices, offsets, w.double(), b.double()
    within_twice(
        cuda.sparse_decode(values, indices, offsets, w, b),
        reference.sparse_decode(*single).to(dtype),
        reference.sparse_decode(*double),
    )
    ours = cuda.decode_loss(values, indices, offsets, w, b, x)
    plain, exact = reference.decode_loss(*single, x.float()), reference.decode_loss(*double, x.double())
    for o, p, e in zip(ours, plain, exact, strict=True):
        assert o.dtype == dtype
        within_twice(o, p.to(dtype), e)
    g = torch.randn(n, d).to(dtype)
    within_twice(
        cuda.gather_dot(g, indices, offsets, w),
        reference.gather_dot(g.float(), indices, offsets, w.float()).to(dtype),
        reference.gather_dot(g.double(), indices, offsets, w.double()),
    )


def test_long_rows_of_a_code_and_a_wide_decoder():
    # More entries than a chunk of shared memory holds; a residual that does not fit into shared memory.
    for n, d, f, count in ((2, 24, 900, 700), (6, 12_300, 6, 5)):
        g = torch.Generator().manual_seed(1)
        indices = torch.cat([torch.randperm(f, generator=g)[:count] for _ in range(n)]).int()
        offsets, values = torch.arange(n + 1) * count, torch.rand(n * count, generator=g)
        w, x = weights(d, f), torch.randn(n, d)
        ours = cuda.decode_loss(values, indices, offsets, w, w[0], x)
        plain = reference.decode_loss(values, indices, offsets, w, w[0], x)
        exact = reference.decode_loss(values.double(), indices, offsets, w.double(), w[0].double(), x.double())
        for o, p, e in zip(ours, plain, exact, strict=True):
            within_twice(o, p, e)


@pytest.mark.parametrize("size", [*SIZES, (700, 2, 1), (4500, 1, 3), (900, 1, 1100), (60, 1, (1 << 16) + 5)])
def test_sort(size):
    n, d, f = size
    _, indices, offsets = code(n, d, min(f, 3000))
    if f > 3000:  # three passes; features far apart
        indices = indices * (f // 3000) + f % 3000
    for ours, theirs in zip(cuda.csc(indices, offsets, f), reference.csc(indices, offsets, f), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def split_hot_features(monkeypatch, cut_bits):
    monkeypatch.setattr(cuda_launch, "CUT_BITS", cut_bits)


@pytest.mark.parametrize("cut_bits", [2, 8])
@pytest.mark.parametrize("size", SIZES)
def test_row_gradients(size, cut_bits, monkeypatch):
    split_hot_features(monkeypatch, cut_bits)
    n, d, f = size
    values, indices, offsets = code(n, d, f)
    csc, u = reference.csc(indices, offsets, f), torch.randn(n, d)
    exact = reference.row_grad(*csc, values.double(), u.double())
    within_twice(cuda.row_grad(*csc, values, u), reference.row_grad(*csc, values, u), exact)
    exact = reference.feature_sum(csc[0], csc[1], values.double())
    within_twice(cuda.feature_sum(csc[0], csc[1], values), reference.feature_sum(csc[0], csc[1], values), exact)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [(60, 37, 30), (9, 16, 12), (40, 520, 6), (9, 1160, 8), (4, 8200, 3), (2, 3001, 2)])
def test_adam(size, unit, sparse, monkeypatch):
    """Against the same step in float64, from the same state: w, both moments and the bf16 copy."""
    split_hot_features(monkeypatch, 3)
    n, d, f = size
    values, indices, offsets = code(n, d, f)
    csc = reference.csc(indices, offsets, f)
    w = torch.nn.functional.normalize(weights(d, f), dim=-1)
    m, v, u = torch.randn(f, d) * 1e-2, torch.rand(f, d) * 1e-3 + 1e-4, torch.randn(n, d)
    hyper = (1e-2, 0.9, 0.99, 1e-8, 7, unit)
    exact = [t.double() for t in (w, m, v)]
    g = reference.row_grad(*csc, values.double(), u.double()) * 0.5
    reference.row_adam_(*exact, g, *hyper)
    copy, norms = torch.full((f, d), torch.nan, dtype=torch.bfloat16), torch.full((2, f), torch.nan)
    if sparse:
        cuda.row_grad_adam_(w, m, v, *csc, values, u, 0.5, *hyper, copy=copy, norms=norms)
    else:
        cuda.row_adam_(w, m, v, g.float(), *hyper, copy=copy, norms=norms)
    # Weights ≤ 1 and steps of 1e-2: half a unit of rounding of each, and 2⁻²² of the step for the quick quotient.
    assert (w.double() - exact[0]).abs().max() < 2e-7
    # 30 fp32 terms of size 1 each in a gradient, tenth and hundredth of it added; m and v keep their relative error.
    torch.testing.assert_close(m.double(), exact[1], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(v.double(), exact[2], rtol=2e-5, atol=2e-6)
    assert torch.equal(copy, w.bfloat16())
    wanted = torch.stack([w.norm(dim=-1), (w - copy.float()).norm(dim=-1)]) * 1.001
    torch.testing.assert_close(norms, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("lazy", "own_bias"), [(False, False), (True, True)])
@pytest.mark.parametrize("cut_bits", [2, 8])
@pytest.mark.parametrize("size", [(60, 37, 30), (9, 16, 12), (40, 520, 6), (9, 1160, 8), (4, 8200, 9), (2, 3001, 2)])
def test_the_encoder_in_one_sweep_is_the_kernels_one_by_one(size, cut_bits, lazy, own_bias, moments, monkeypatch):
    """The same bits of weights, moments, copy and bias gradients; the weighted sum of the rows before in its budget."""
    split_hot_features(monkeypatch, cut_bits)
    n, d, f = size
    values, indices, offsets = code(n, d, f)
    csc, u = reference.csc(indices, offsets, f), torch.randn(n, d)
    bias = torch.randn(len(values)) if own_bias else None
    start = weights(d, f), (torch.randn(f, d) * 1e-2).to(moments), (torch.rand(f, d) * 1e-3 + 1e-4).to(moments)
    kept = [[t.clone() for t in start] for _ in range(2)]
    copies = [(torch.zeros(f, d, dtype=torch.bfloat16), torch.zeros(2, f)) for _ in range(2)]
    hyper, options = (1e-2, 0.9, 0.99, 1e-8, 7), (lazy, None, None)
    cuda.row_grad_adam_(*kept[0], *csc, values, u, 1.0, *hyper, False, *options, *copies[0])
    sums, weighted = cuda.encoder_grad_adam_(*kept[1], *csc, values, u, bias, *hyper, *options, *copies[1])
    assert all(torch.equal(a, b) for a, b in zip([*kept[0], *copies[0]], [*kept[1], *copies[1]], strict=True))
    coef = values if bias is None else bias
    plain, exact = (reference.feature_sum(*csc[:2], c) for c in (coef, coef.double()))
    assert torch.equal(sums, cuda.feature_sum(*csc[:2], coef)) or cut_bits == 2
    within_twice(sums, plain, exact)
    within_twice(weighted, plain @ start[0], exact @ start[0].double())


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [(60, 37, 30), (9, 16, 12), (9, 1160, 8), (4, 8200, 3)])
def test_adam_in_bf16_and_lazy(size, unit, sparse):
    """Moments as the definition rounds them; rows without a gradient as they were; the noise is that of the CPU."""
    n, d, f = size
    values, indices, offsets = code(n, d, f)
    values = torch.where(indices == 1, 0.0, values)  # entries, and no gradient
    csc = reference.csc(indices, offsets, f)
    w, u = torch.nn.functional.normalize(weights(d, f), dim=-1), torch.randn(n, d)
    m, v = (torch.randn(f, d) * 1e-2).bfloat16(), (torch.rand(f, d) * 1e-3 + 1e-4).bfloat16()
    start, wanted = [w.clone(), m.clone(), v.clone()], [w.clone(), m.clone(), v.clone()]
    hyper = (1e-2, 0.9, 0.99, 1e-8, 7, unit, True)
    g = reference.row_grad(*csc, values, u)
    reference.row_adam_(*wanted, g, *hyper)
    if sparse:
        cuda.row_grad_adam_(w, m, v, *csc, values, u, 1.0, *hyper)
    else:
        cuda.row_adam_(w, m, v, g, *hyper)
    still = (g == 0).all(-1)
    assert still[1] and not still.all()
    for mine, before, defined in zip((w, m, v), start, wanted, strict=True):
        assert torch.equal(mine[still], before[still])
        if mine.dtype == torch.bfloat16:
            assert (mine == defined).float().mean() > 0.99  # but where another rounding of the sum decides
    assert (w - wanted[0]).abs().max() < 4e-7


OWN_SIZES = [
    (60, 37, 30, 1),
    (40, 34, 9, 2),
    (9, 15, 12, 3),
    (9, 20, 1, 5),
    (9, 1160, 8, 8),
    (4, 8200, 3, 2),
    (2, 3001, 2, 1),
]


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("unit", "lazy"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("size", OWN_SIZES)
def test_a_multiple_of_the_row_is_a_term_of_its_gradient(size, unit, lazy, moments, monkeypatch):
    """As in float64; lazy rows are left alone where their multiples are 0 too; the operations agree to the bit."""
    split_hot_features(monkeypatch, 3)
    n, d, f, blocks = size
    values, indices, offsets = code(n, d, f)
    if f > 2:
        values = torch.where((indices == 1) | (indices == 2), 0.0, values)  # entries, and no gradient
    csc, u, own = reference.csc(indices, offsets, f), torch.randn(n, d), torch.randn(f, blocks)
    own[1:2], own[2:3, :-1] = 0.0, 0.0
    w = torch.nn.functional.normalize(weights(d, f), dim=-1)
    start = w, (torch.randn(f, d) * 1e-2).to(moments), (torch.rand(f, d) * 1e-3 + 1e-4).to(moments)
    hyper = (1e-2, 0.9, 0.99, 1e-8, 7, unit, lazy)
    g = reference.row_grad(*csc, values.double(), u.double()) * 0.5
    exact = [t.double() for t in start]
    reference.row_adam_(*exact, g, *hyper, own=own.double())
    dense, sparse, again = ([t.clone() for t in start] for _ in range(3))
    cuda.row_adam_(*dense, g.float(), *hyper, own=own)
    cuda.row_grad_adam_(*sparse, *csc, values, u, 0.5, *hyper, own=own)
    cuda.row_grad_adam_(*again, *csc, values, u, 0.5, *hyper, own=own)
    assert all(torch.equal(a, b) for a, b in zip(sparse, again, strict=True))
    for mine in (dense, sparse):
        assert (mine[0].double() - exact[0]).abs().max() < 2e-7  # as in test_adam
        if moments == torch.float32:
            torch.testing.assert_close(mine[1].double(), exact[1], rtol=1e-5, atol=2e-6)
            torch.testing.assert_close(mine[2].double(), exact[2], rtol=2e-5, atol=2e-6)
        if lazy and f > 2:
            assert all(torch.equal(a[1], b[1]) for a, b in zip(mine, start, strict=True))
            assert not torch.equal(mine[1][2], start[1][2])


def test_multiples_of_0_change_no_bit():
    values, indices, offsets = code(40, 36, 30)
    csc, u = reference.csc(indices, offsets, 30), torch.randn(40, 36)
    for unit in (False, True):
        mine, theirs = ([weights(36, 30), torch.zeros(30, 36), torch.zeros(30, 36)] for _ in range(2))
        cuda.row_grad_adam_(*mine, *csc, values, u, 0.5, 1e-2, 0.9, 0.99, 1e-8, 7, unit, own=torch.zeros(30, 3))
        cuda.row_grad_adam_(*theirs, *csc, values, u, 0.5, 1e-2, 0.9, 0.99, 1e-8, 7, unit)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_multiple_that_does_not_fit_is_refused(module):
    w = torch.zeros(4, 6)
    step = AdamStep(1e-3, 0.9, 0.999, 1e-8, 1, own=torch.zeros(4, 4))
    arguments = {"w": w, "moments": Moments(w.clone(), w.clone()), "copy": None, "g": w, "threads": 0, "stream": 0}
    with pytest.raises(ValueError, match="own: got 4 columns; wanted a divisor of 6"):
        module.row_adam(**arguments, step=step)
    with pytest.raises(ValueError, match=r"own: got \[3, 2\]; wanted \[4, 2\]"):
        module.row_adam(**arguments, step=step._replace(own=torch.zeros(3, 2)))


def live_of(lr, beta1, beta2, eps, step):
    live = adam.live_factors(beta1, beta2, eps, torch.device("cpu"))
    adam.set_live_(live, torch.tensor(lr, dtype=torch.float64), torch.tensor(step), beta1, beta2)
    return live


def test_adam_takes_its_factors_from_memory():
    """What a captured step needs: the numbers of the call are not used when a tensor has them."""
    mine, theirs = ([torch.full((3, 8), 0.25), torch.ones(3, 8), torch.ones(3, 8)] for _ in range(2))
    g, good, other = torch.randn(3, 8), (1e-2, 0.9, 0.99, 1e-8, 7), (9.0, 0.1, 0.1, 1.0, 1)
    for unit in (False, True):
        cuda.row_adam_(*theirs, g, *good, unit)
        cuda.row_adam_(*mine, g, *other, unit, live=live_of(*good))
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_row_of_zeros_stays():
    w, m, v = (torch.zeros(2, 8) for _ in range(3))
    cuda.row_adam_(w, m, v, torch.zeros(2, 8), 1e-3, 0.9, 0.999, 1e-8, 1, True)
    assert torch.equal(w, torch.zeros(2, 8))


@pytest.mark.parametrize("some_alive", [True, False])
@pytest.mark.parametrize("size", [(300, 24), (20, 300), (3, 1)])
def test_resample(size, some_alive):
    f, d = size
    w_enc, b_enc = weights(d, f), torch.randn(f)
    w_dec, moments = torch.nn.functional.normalize(torch.randn(f, d), dim=-1), [torch.ones(f, d), torch.ones(f)]
    chosen, inputs = torch.tensor([1, f - 1]), torch.randn(2, d) * 7
    alive = torch.full((f,), some_alive)
    alive[chosen] = False
    mine, plain = ([t.clone() for t in (w_enc, w_dec, b_enc, *moments)] for _ in range(2))
    cuda.resample_(*mine[:3], mine[3:], chosen, inputs, alive, 0.2)
    reference.resample_(*plain[:3], plain[3:], chosen, inputs, alive, 0.2)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert torch.equal(mine[1][0], w_dec[0])  # the others are not touched


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        *((size, dtype) for size in every_kernel.SMALL for dtype in (torch.float32, torch.bfloat16)),
        *((size, torch.float32) for size in every_kernel.WIDE),
    ],
)
def test_the_cases_of_the_gpu_tests_use_at_most_four_fifths_of_their_budget(size, dtype):
    """The cases of ``tests/gpu``, data and definitions included, so that no budget there is a matter of luck."""
    used = every_kernel.everything(*size, dtype, "cpu")
    assert max(used.values()) <= 0.8, used


def test_every_block_size_of_tuning_stays_within_the_budget(monkeypatch):
    for threads in cuda_launch.THREADS:
        monkeypatch.setattr(cuda_launch, "tuned", lambda *_, threads=threads: threads)
        used = every_kernel.everything(*every_kernel.TUNED, torch.float32, "cpu")
        assert max(used.values()) <= 0.8, (threads, used)


def test_sums_over_constant_rows_lose_no_more_than_others():
    """Every lane errs alike there: in chains that grow with the row, 8,192 columns lost three times the budget."""
    n, d, f, k = 5, 8192, 12, 4
    g = torch.Generator().manual_seed(0)
    values, offsets = torch.rand(n * k, generator=g), torch.arange(n + 1) * k
    indices = torch.cat([torch.randperm(f, generator=g)[:k].sort().values for _ in range(n)]).int()
    w, x = torch.full((f, d), 0.7) / d**0.5, torch.full((n, d), 2.1)
    exact = reference.gather_dot(x.double(), indices, offsets, w.double())
    within_twice(cuda.gather_dot(x, indices, offsets, w), reference.gather_dot(x, indices, offsets, w), exact)
    x[0, 5] = torch.inf
    infinite = cuda.gather_dot(x, indices, offsets, w)[:k]
    assert infinite.isinf().all()  # what rounding took off such a sum is not a number
    loss, _, _ = cuda.decode_loss(values, indices, offsets, w, w[0], x)
    assert loss[0].isinf() and loss[1:].isfinite().all()


def test_threads_of_a_block_change_nothing_but_speed(monkeypatch):
    """Every choice that tuning may make is right."""
    values, indices, offsets = code(8, 200, 40)
    w, x = torch.nn.functional.normalize(weights(200, 40), dim=-1), torch.randn(8, 200)
    csc = reference.csc(indices, offsets, 40)
    exact = reference.decode_loss(values.double(), indices, offsets, w.double(), w[0].double(), x.double())
    g = reference.row_grad(*csc, values.double(), x.double())
    decoded = reference.sparse_decode(values.double(), indices, offsets, w.double(), w[0].double())
    hyper, start = (1e-2, 0.9, 0.99, 1e-8, 7), (w, torch.zeros(40, 200), torch.full((40, 200), 1e-3))
    for threads in cuda_launch.THREADS:
        monkeypatch.setattr(cuda_launch, "tuned", lambda *_, threads=threads: threads)
        for ours, wanted in zip(cuda.decode_loss(values, indices, offsets, w, w[0], x), exact, strict=True):
            torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(cuda.row_grad(*csc, values, x).double(), g, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            cuda.sparse_decode(values, indices, offsets, w, w[0]).double(), decoded, rtol=1e-5, atol=1e-6
        )
        for unit, lazy in (
            (False, False),
            (True, False),
            (True, True),
        ):  # sums over a row, of one or of several a block
            wanted = [t.double() for t in start]
            reference.row_adam_(*wanted, g, *hyper, unit, lazy)
            dense, sparse = ([t.clone() for t in start] for _ in range(2))
            norms = [torch.empty(2, 40) for _ in range(2)]
            copies = [torch.empty(40, 200, dtype=torch.bfloat16) for _ in range(2)]
            cuda.row_adam_(*dense, g.float(), *hyper, unit, lazy, copy=copies[0], norms=norms[0])
            cuda.row_grad_adam_(*sparse, *csc, values, x, 1.0, *hyper, unit, lazy, copy=copies[1], norms=norms[1])
            moved = (g != 0).any(-1) if lazy else torch.ones(40, dtype=torch.bool)
            for mine, norm in ((dense, norms[0]), (sparse, norms[1])):
                assert (mine[0].double() - wanted[0]).abs().max() < 2e-7, threads
                lengths = mine[0].norm(dim=-1) * 1.001
                torch.testing.assert_close(norm[0][moved], lengths[moved], rtol=1e-4, atol=1e-7)


def test_nothing_outside_of_an_array_is_touched(request):
    """Arrays between pages that cannot be read, codes with unused room: a stray address ends the process."""
    done = subprocess.run(
        [sys.executable, fenced.__file__, str(request.config.cache.mkdir("emulator"))],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}: {done.stderr[-2000:]}"
    assert done.stdout.splitlines()[-1] == "all is well"


def test_blocks_in_another_order_give_the_same_bits():
    """The emulator draws a new order of blocks and threads for every launch."""
    values, indices, offsets = code(40, 64, 30)
    w, x, csc = weights(64, 30), torch.randn(40, 64), reference.csc(indices, offsets, 30)
    runs = [(*cuda.decode_loss(values, indices, offsets, w, w[0], x), cuda.row_grad(*csc, values, x)) for _ in range(3)]
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], again, strict=True))


def test_the_table_of_backends_finds_them_with_the_arguments_of_the_operation():
    by_cuda = [op for op, where in gpu.IMPLEMENTATIONS.items() if "cuda" in where]
    assert len(by_cuda) == 10
    for op in by_cuda:
        folder = gpu.IMPLEMENTATIONS[op]["cuda"].partition(".cuda:")[0]
        mine = inspect.signature(gpu._load(f"{folder}.cuda:{op}")).parameters
        assert list(mine) == list(inspect.signature(gpu._load(f"{folder}.reference:{op}")).parameters), op
        schema = getattr(torch.ops.monosem, op).default._schema.arguments
        if folder.endswith("row_adam"):  # its implementations take structs; the operation has their fields
            assert {"moments", "step", "copy"} < set(mine), op
        else:
            assert list(mine) == [a.name for a in schema], op
        public = ops.decode_loss_rows if op == "decode_loss" else getattr(ops, op)
        assert list(inspect.signature(public).parameters) == [a.name for a in schema], op


def test_dispatched_as_on_a_gpu(monkeypatch):
    monkeypatch.setenv("MONOSEM_BACKEND", "cuda")
    monkeypatch.setattr(gpu, "available", lambda name: "")
    _, indices, offsets = code(30, 1, 12)
    assert gpu.choose("csc") == ("cuda", "set by MONOSEM_BACKEND")
    for ours, theirs in zip(
        gpu.call("csc", reference.csc, (indices, offsets, 12)), reference.csc(indices, offsets, 12), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert gpu.choose("topk_encode")[0] == "triton"  # it has none of its own
