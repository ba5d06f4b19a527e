"""Paths of the Triton kernels that ordinary data do not take: overflow, an unlucky sample, hot features, wide rows."""

import pytest
import torch
from ops.cases import encoder, here, plainly, within_twice

from monosem import ops
from monosem.kernels import launch
from monosem.ops import backend, reference
from monosem.ops.gpu import available
from monosem.ops.selection.triton_plan import CHANCE, Plan, _poisson_tail, plan_of

if available("triton"):
    pytest.skip(available("triton"), allow_module_level=True)
pytestmark = pytest.mark.usefixtures("device", "triton_only")


@pytest.fixture
def encode():
    from monosem.ops.topk_encode import triton

    return triton


def integers_of(n, d, f, seed=0):
    """Products of small integers are exact in every order of addition, so that answers must be equal."""
    g = torch.Generator().manual_seed(seed)
    parts = (torch.randint(-3, 4, size, generator=g, device="cpu").float() for size in ((n, d), (f, d), (f,)))
    return tuple(here(t) for t in parts)


def check(encode, x, w, b, k, plan):
    values, indices = (torch.full((len(x), k), 7, dtype=t, device=x.device) for t in (torch.float32, torch.int32))
    report = encode._select(encode.Problem(x, w, b), plan, k, values, indices)
    wanted = reference.topk_encode(x, w, b, k)
    assert torch.equal(values, wanted[0]) and torch.equal(indices, wanted[1])
    return report


# A threshold that is too high (the first of the sample), too low (the last: no room), and one that is right.
@pytest.mark.parametrize(("j", "redone"), [(1, True), (256, True), (20, False)])
@pytest.mark.parametrize("room", [1, 64])
def test_rows_with_an_unlucky_sample_are_redone(encode, monkeypatch, j, redone, room):
    x, w, b = encoder(2, 16, 2500)
    monkeypatch.setattr(encode, "SPACE_BYTES", room * 4 * 2500)  # with 1, all rows but one go the slow way
    plan = Plan(512, False, 256, j, 256)
    values, indices = torch.empty(2, 30), torch.empty(2, 30, dtype=torch.int32)
    report = encode._select(encode.Problem(x, w, b), plan, 30, values, indices)
    assert (report["redone"].item() > 0) == redone
    wanted = reference.topk_encode(x, w, b, 30)
    assert torch.equal(indices, wanted[1])
    torch.testing.assert_close(values, wanted[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("room", [1, 64])
def test_ties_beyond_every_capacity(encode, monkeypatch, room):
    x, w, b = integers_of(3, 2, 2500)
    x[1] = 0  # its pre-activations are the biases: seven different ones
    monkeypatch.setattr(encode, "SPACE_BYTES", room * 4 * 2500)
    report = check(encode, x, w, b, 40, Plan(64, False, 256, 8, 16))
    assert report["redone"].item() >= 1


def test_equal_rows_have_equal_bits_redone_or_not(encode):
    x, w, b = encoder(2, 700, 2500)
    found = []
    for j in (20, 1):  # a threshold that is right, and one too high
        values, indices = torch.empty(2, 30), torch.empty(2, 30, dtype=torch.int32)
        report = encode._select(encode.Problem(x, w, b), Plan(512, False, 256, j, 256), 30, values, indices)
        found.append((report["redone"].item(), values, indices))
    assert found[0][0] == 0 < found[1][0]
    assert torch.equal(found[0][1], found[1][1]) and torch.equal(found[0][2], found[1][2])


def test_many_equal_rows_are_redone_together(encode, monkeypatch):
    """All features alike but a few: no threshold divides them. The rows share what is read of the encoder."""
    x, w, b = torch.ones(21, 3), torch.ones(2500, 3), torch.zeros(2500)
    b[2400:2403] = 1.0
    monkeypatch.setattr(encode, "SPACE_BYTES", 9 * 4 * 2500)
    assert check(encode, x, w, b, 40, Plan(256, False, 256, 8, 16))["redone"].item() == 21


@pytest.mark.parametrize("finite", [700, 3])
def test_biases_of_minus_infinity(encode, finite):
    """Features that are never to fire are no candidates; where fewer than k are left, they come last."""
    x, w, b = integers_of(3, 4, 2500)
    b[torch.randperm(2500)[finite:]] = -torch.inf
    report = check(encode, x, w, b, 5, Plan(1024, False, 256, 12, 256))
    assert (report["count"] <= finite).all()
    assert report["redone"].item() == (3 if finite < 5 else 0)


@pytest.mark.parametrize("everything", [True, False])
def test_rows_that_are_not_numbers(encode, everything):
    x, w, b = encoder(4, 8, 700)
    x[1, 3], x[2, 0] = torch.nan, torch.inf
    plan = Plan(1024, True) if everything else Plan(256, False, 128, 12, 40)
    values, indices = torch.empty(4, 5), torch.empty(4, 5, dtype=torch.int32)
    encode._select(encode.Problem(x, w, b), plan, 5, values, indices)
    wanted = reference.topk_encode(x, w, b, 5)
    assert values[1].isnan().all() and indices[1].tolist() == list(range(5))
    for row in (0, 3):
        assert torch.equal(indices[row], wanted[1][row])
    # Inf in a row: x·w is ±inf, or NaN where w is 0; here none is.
    assert torch.equal(values[2], wanted[0][2]) and torch.equal(indices[2], wanted[1][2])
    w[600, 0] = torch.nan  # one weight: a NaN in every row
    encode._select(encode.Problem(x, w, b), plan, 5, values, indices)
    assert values.isnan().all()


def test_the_bound_holds(encode):
    """What the candidates are chosen by: the upper bound is above the value in float64, and not by much."""
    x, w, b = encoder(6, 200, 300)
    p = encode.Problem(x, w, b)
    keys, _ = p.collect(torch.zeros(6, device=x.device), 512, True)
    rank = (keys[:, :300] >> 32).int()
    upper = (rank ^ ((rank >> 31) & 0x7FFFFFFF)).view(torch.float32)
    exact = x.double() @ w.double().T + b.double()
    assert (upper.double() >= exact).all()
    # Twice the margin: at worst 2⁻⁸‖x‖‖w‖ to the nearest, twice that by cutting off, as the interpreter does.
    worst = 2.0**-6 * x.norm(dim=1)[:, None] * w.norm(dim=1)[None, :]
    assert (upper.double() - exact <= worst + 1e-5).all()


def test_plans_bound_the_chance_of_a_redo(encode):
    for f, k in [(24_576, 32), (65_536, 64), (131_072, 64), (131_072, 32), (1 << 20, 32), (2053, 32), (20_000, 384)]:
        plan = plan_of(f, k)
        assert plan.slots >= 2 * k and plan.sample <= f // 4 and plan.j < plan.j_most <= plan.sample
        assert _poisson_tail(k * plan.sample / f, plan.j) <= CHANCE
        assert 1 - _poisson_tail(plan.slots * plan.sample / f, plan.j_most) <= CHANCE
    assert plan_of(257, 257).everything and plan_of(300_000, 50_000) is None
    assert _poisson_tail(2.0, 1) == pytest.approx(1 - 2.718281828459045**-2)


def test_k_beyond_every_plan(encode, monkeypatch):
    monkeypatch.setattr("monosem.ops.selection.triton_plan.MOST_SLOTS", 64)
    plan_of.cache_clear()
    monkeypatch.setattr(encode, "DENSE_BYTES", 16 * 300 * 2)
    x, w, b = integers_of(5, 4, 300)
    x[3, 1] = torch.nan
    try:
        values, indices = encode.topk_encode(x, w, b, 300)
    finally:
        plan_of.cache_clear()
    wanted = reference.topk_encode(x, w, b, 300)
    good = [0, 1, 2, 4]
    assert torch.equal(values[good], wanted[0][good]) and torch.equal(indices[good], wanted[1][good])
    assert values[3].isnan().all()


@pytest.mark.parametrize("dense", [False, True])
def test_more_active_features_than_the_capacity(monkeypatch, dense):
    from monosem.ops.threshold_encode import triton as encode

    monkeypatch.setattr(encode, "SLOTS", 32)
    if dense:
        monkeypatch.setattr(encode, "DENSE_BYTES", 1)
    x, w, b = integers_of(4, 6, 300)
    x[2] = 0
    got, wanted = encode.threshold_encode(x, w, b), reference.threshold_encode(x, w, b)
    for a, c in zip(got, wanted, strict=True):
        assert torch.equal(a, c)


def beside(f):
    """Thresholds of both signs that many products of small integers equal."""
    return here((torch.arange(f, device="cpu") % 9 - 3).float())


@pytest.mark.parametrize("dense", [False, True])
def test_more_features_above_their_thresholds_than_the_capacity(monkeypatch, dense):
    from monosem.ops.threshold_encode import triton as encode

    monkeypatch.setattr(encode, "SLOTS", 32)
    if dense:
        monkeypatch.setattr(encode, "DENSE_BYTES", 1)
    x, w, b = integers_of(4, 6, 300)
    x[2] = 0
    got, wanted = (e.threshold_encode(x, w, b, beside(300)) for e in (encode, reference))
    for a, c in zip(got, wanted, strict=True):
        assert torch.equal(a, c)


def test_entries_near_their_threshold_have_the_values_and_the_choice_of_the_definition(low):
    """b − θ is rounded to steps of 2⁻⁴ here, pre-activations to steps of 2⁻¹⁰."""
    x, w, b = encoder(5, 20, 300)
    x = 0.01 * x
    b, threshold = b + 9e3, torch.full((300,), 9e3)
    b[150:], threshold[150:] = b[150:] + 5e5, 9e3 + 5e5
    every, _, offsets = ops.threshold_encode(x, w, b).csr()
    assert (offsets.diff() == 300).all()
    h = every.view(5, 300)
    for capacity in (None, 1500):
        if capacity is None:
            values, indices, ends = ops.threshold_encode(x, w, b, threshold).csr()
        else:
            values, indices, ends, _, kept = ops.threshold_encode_within(x, w, b, capacity, 512, None, threshold)
            assert kept.all()
        rows, columns = (h > threshold).nonzero(as_tuple=True)
        assert 0 < len(rows) == int(ends[-1]) < 1500
        assert torch.equal(indices[: len(rows)].long(), columns)
        assert torch.equal(values[: len(rows)], h[rows, columns])


def test_thresholds_and_biases_that_are_not_finite(low):
    x, w, b = integers_of(3, 6, 40)
    threshold = beside(40)
    b[:3] = here(torch.tensor([torch.inf, -torch.inf, torch.nan], device="cpu"))
    threshold[2:6] = here(torch.tensor([0.0, torch.inf, -torch.inf, torch.nan], device="cpu"))
    b[6], threshold[6] = -torch.inf, -torch.inf
    x[1, 0] = torch.nan
    got, wanted = ops.threshold_encode(x, w, b, threshold).csr(), reference.threshold_encode(x, w, b, threshold)
    for a, c in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, c, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def triton_operand():
    from monosem.ops.selection import triton_operand

    return triton_operand


@pytest.fixture(params=["bf16", "int8"])
def low(request, monkeypatch):
    """Both kinds of rows that products may have."""
    monkeypatch.setattr(backend, "gpu_product", lambda: request.param)
    return {"bf16": torch.bfloat16, "int8": torch.int8}[request.param]


@pytest.mark.parametrize(("room", "slots"), [(2000, 512), (500, 512), (2000, 128), (0, 512)])
def test_entries_in_arrays_of_a_given_capacity(triton_operand, low, room, slots):
    """All of a token's entries or none: too many of its own, or no room behind those before it."""
    x, w, b = integers_of(6, 6, 300)
    x[2] = 0
    below = beside(300) % 2 - 1.5  # no entry is near its threshold: room is for candidates
    copy = triton_operand.empty_copy(w)
    triton_operand.round_into(*copy, w)
    for rounded, threshold in ((copy, below), (None, None), (copy, None)):
        values, indices, offsets, counts, kept = ops.threshold_encode_within(x, w, b, room, slots, rounded, threshold)
        wanted = reference.threshold_encode_within(x, w, b, room, slots, threshold)
        for got, definition in zip((values, indices, offsets, kept), (*wanted[:3], wanted[4]), strict=True):
            assert torch.equal(got, definition)
        assert (counts >= wanted[3]).all()
    assert kept.all() == (room == 2000 and slots == 512)
    # What follows takes a code with unused room behind it.
    u, csc = torch.randn(6, 6), ops.csc(indices, offsets, 300)
    used = int(offsets[-1])
    plain = reference.csc(indices[:used], offsets, 300)
    for a, b in zip(csc, plain, strict=True):
        assert torch.equal(a[: len(b)], b)
    torch.testing.assert_close(ops.row_grad(*csc, values, u), reference.row_grad(*plain, values, u))
    ours = ops.decode_loss_rows(values, indices, offsets, w, w[0], x)
    plain = reference.decode_loss(values[:used], indices[:used], offsets, w, w[0], x)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a[: len(b)], b)


def test_the_encoder_copy_may_be_given(triton_operand, low):
    x, w, b = encoder(7, 70, 2200)
    copy, norms = triton_operand.empty_copy(w)
    assert copy.dtype == low
    triton_operand.round_into(copy, norms, w)
    for k in (5, 300):
        plain, given = ops.topk_encode(x, w, b, k), ops.topk_encode(x, w, b, k, (copy, norms))
        assert torch.equal(plain.values, given.values) and torch.equal(plain.indices, given.indices)


def test_bf16_tensors(encode):
    x, w, b = encoder(4, 65, 2600, torch.bfloat16)
    got = ops.topk_encode(x, w, b, 7)
    exact = (x.double() @ w.double().T + b.double()).gather(1, got.indices.long())
    torch.testing.assert_close(got.values.double(), exact.clamp(min=0), rtol=2**-8, atol=0)


def test_a_feature_of_every_token():
    """Windows that lie within a feature, that end in it, and features without any entry."""
    n, f, d = 300, 5, 20
    offsets = torch.arange(0, 2 * n + 1, 2)
    indices = torch.stack([torch.ones(n, dtype=torch.int32), torch.arange(n, dtype=torch.int32) % 2 * 2 + 2], 1).view(
        -1
    )
    coef, u = torch.randn(2 * n), torch.randn(n, d)
    csc = ops.csc(indices, offsets, f)
    for ours, theirs in zip(csc, reference.csc(indices, offsets, f), strict=True):
        assert torch.equal(ours, theirs)
    exact = reference.row_grad(*csc, coef.double(), u.double())
    first = ops.row_grad(*csc, coef, u)
    within_twice(first, plainly(reference.row_grad, *csc, coef, u), exact)
    assert torch.equal(first, ops.row_grad(*csc, coef, u)) and (first[[0, 3]] == 0).all()
    # The windows' sums are what the kernel itself uses when there is no gradient in memory.
    w = torch.nn.functional.normalize(torch.randn(f, d), dim=-1)
    fused, plain = ([w.clone(), torch.zeros(f, d), torch.zeros(f, d)] for _ in range(2))
    adam = (1e-2, 0.9, 0.99, 1e-8, 3, True)
    ops.row_grad_adam_(*fused, *csc, coef, u, 0.5, *adam)
    ops.row_adam_(*plain, first * 0.5, *adam)
    for a, c in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-7)


def test_rows_too_wide_for_one_program(monkeypatch):
    from monosem.ops.row_adam import triton as row_adam_triton

    values, indices, offsets = torch.rand(9), torch.arange(9, dtype=torch.int32) % 4, torch.tensor([0, 4, 4, 9])
    x, w, _ = encoder(3, 40, 4)
    csc = ops.csc(indices, offsets, 4)
    steps = []
    for widest in (row_adam_triton.WIDEST, 16):
        monkeypatch.setattr(row_adam_triton, "WIDEST", widest)
        mine = [torch.nn.functional.normalize(w, dim=-1), w * 0, w * 0]
        ops.row_grad_adam_(*mine, *csc, values, x, 0.5, 1e-2, 0.9, 0.99, 1e-8, 1, True)
        steps.append(mine)
    for a, c in zip(*steps, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-6)


def test_tokens_in_turn(encode, monkeypatch):
    x, w, b = integers_of(8, 3, 40)
    monkeypatch.setattr(encode, "BUFFER_BYTES", 1)
    monkeypatch.setattr(encode, "FEWEST_ROWS", 3)
    got, wanted = encode.topk_encode(x, w, b, 2), reference.topk_encode(x, w, b, 2)
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])


def test_candidates_reports_the_errors_of_bf16_alone(encode):
    x, b = torch.ones(2, 8), torch.zeros(2600)
    w = 1 + 1e-3 * encoder(1, 8, 2600)[1]  # features that differ by less than bf16 can tell
    found = encode.candidates(x, w, b, 4)
    assert found["missed"] == 1 and found["redone"] == 1  # all are within the margin: no room, computed from all
    found = encode.candidates(x * 0, w, torch.arange(2600.0), 4)  # integers, no two alike: nothing to miss
    assert found["missed"] == 0 == found["redone"] and 4 <= found["scored"] <= found["collected"] <= found["slots"]


def test_products_in_fp32_when_asked(encode, monkeypatch):
    monkeypatch.setattr(backend, "gpu_product", lambda: "fp32")
    x, w, b = encoder(2, 20, 300)
    assert encode.Problem(x, w, b).left.rows.dtype == torch.float32
    assert torch.equal(ops.topk_encode(x, w, b, 9).indices, reference.topk_encode(x, w, b, 9)[1])


# Entries of a token: fewer than are held, and more; columns: many slices, in chains that grow with the row.
@pytest.mark.parametrize(
    ("k", "d", "kind"), [(3, 700, "normal"), (60, 8192, "of one sign"), (150, 1030, "of one sign")]
)
def test_slopes_of_long_rows_and_long_codes(k, d, kind):
    g = torch.Generator().manual_seed(k)
    n, f = 2, 160
    draw = torch.randn if kind == "normal" else torch.rand
    lengths = [k, k // 2]
    indices = torch.cat([torch.randperm(f, generator=g, device="cpu")[:many] for many in lengths]).int()
    offsets = torch.tensor([0, *lengths], device="cpu").cumsum(0)
    values, w, b, x = (draw(*size, generator=g, device="cpu") for size in ((sum(lengths),), (f, d), (d,), (n, d)))
    values, indices, offsets, w, b, x = (here(t) for t in (values, indices, offsets, w / d**0.5, b, 3 * x))
    plain = reference.decode_loss(values, indices, offsets, w, b, x)
    exact = reference.decode_loss(values.double(), indices, offsets, *(t.double() for t in (w, b, x)))
    for mine, theirs, true in zip(ops.decode_loss_rows(values, indices, offsets, w, b, x), plain, exact, strict=True):
        within_twice(mine, theirs, true)
    ones = torch.full((f, 100), 1e25, device=x.device)
    infinite = ops.decode_loss_rows(torch.ones_like(values), indices, offsets, ones, ones[0], -ones[:n])
    assert (infinite[0] == torch.inf).all() and (infinite[2] == torch.inf).all()


@pytest.mark.parametrize("kind", ["constant", "of one sign"])
def test_no_chain_of_additions_grows_with_the_row(encode, monkeypatch, kind):
    """Blocks so narrow that a row of 2,048 has as many as one of 65,536: within the budget, whatever the width is. In
    one chain constant rows, in which every lane errs alike, lost several times as much."""
    for kernel, options in (("gather_dot", {"BD": 16}), ("choose", {"C": 64, "B": 64, "BD": 16})):
        monkeypatch.setitem(launch._INTERPRETER, kernel, options)
    d, g = 2048, torch.Generator().manual_seed(0)
    x, w = (here(torch.rand(*size, generator=g, device="cpu")) for size in ((3, d), (40, d)))
    if kind == "constant":
        x, w = torch.full((3, d), 2.1), torch.full((40, d), 0.7)
    w, b = w / d**0.5, torch.zeros(40)
    indices, offsets = torch.arange(24, dtype=torch.int32), torch.arange(4) * 8
    args = x, indices, offsets, w
    exact = reference.gather_dot(x.double(), indices, offsets, w.double())
    within_twice(ops.gather_dot(*args), plainly(reference.gather_dot, *args), exact)
    # Of all products, against what PyTorch's sum loses: its own product is exact for some constant rows.
    indices, offsets = torch.arange(40, dtype=torch.int32).repeat(3), torch.arange(4) * 40
    plain = plainly(reference.gather_dot, x, indices, offsets, w)
    exact = reference.gather_dot(x.double(), indices, offsets, w.double())
    largest = [t.view(3, 40).sort(descending=True).values for t in (plain, exact)]
    within_twice(ops.topk_encode(x, w, b, 40).values, *largest)


def test_redone_rows_and_the_product_are_counted_without_synchronisation():
    from monosem.ops import step_stats

    x, w, b = integers_of(3, 2, 2500)
    x[1] = 0  # ties beyond the capacity
    times = step_stats.PhaseTimes(x.device)
    with step_stats.recording(times) as stats:
        ops.topk_encode(x, w, b, 40)
    product = "fp32" if backend.gpu_product() == "fp32" else "bf16"
    assert sum(stats.encoder.tokens.values()) == stats.encoder.tokens[product] == 3
    row = stats.metrics()
    assert all(isinstance(row[name], torch.Tensor) for name in ("rows_redone", "candidates", "rescored"))
    assert 0 <= row["rows_redone"] <= 1 and 40 <= row["rescored"] <= row["candidates"]
    with step_stats.recording() as stats:
        ops.topk_encode(x, w, b, 40)
    assert "candidates" not in stats.metrics()  # two launches, where phases are not timed
