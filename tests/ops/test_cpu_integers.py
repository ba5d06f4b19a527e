"""The products in integers: their bounds, and the choice that they lead to, against float64 and fp32."""

import pytest
import torch
from ops.cases import encoder, poisoned

from monosem import ops
from monosem.ops import backend, reference
from monosem.ops.backend import native as _C
from monosem.ops.selection import cpu as selection
from monosem.ops.selection import cpu_integers, dithered
from monosem.ops.selection.cpu import Encoder
from monosem.ops.threshold_encode import cpu as threshold_cpu


@pytest.fixture(autouse=True, params=["int16", "int8", "int8, dithered"])
def bits(request, monkeypatch):
    """This product and bound, on buffers full of what no kernel may read."""
    name, _, dithered = request.param.partition(", ")
    monkeypatch.setattr(backend, "cpu_product", lambda: name)
    monkeypatch.setattr(backend, "certain", lambda: not dithered)
    monkeypatch.setattr(backend, "free_to_choose", lambda: False)
    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    return int(name[3:])


def numbers(packed, n, d, bits, tokens):
    """The integers of packed rows [n, d], read back from their panels."""
    panels = _C.panels(f"int{bits}", d)
    panel, group = (panels.tokens, panels.token_group) if tokens else (panels.features, panels.feature_group)
    columns = panels.words * 32 // bits
    each = packed.packed.view(torch.int8 if bits == 8 else torch.int16).view(-1, columns // group, panel, group)
    rows = each.transpose(1, 2).reshape(-1, columns).int()
    shifted, in_group = bits == 8 and tokens, -(-d // (32 // bits)) * (32 // bits)
    assert (rows[:n, d:in_group] == (-128 if shifted else 0)).all()
    beyond = rows[:n, in_group:]  # in tiles: up to 64 columns, of which the last vector's are shifted, too
    assert ((beyond == 0) | (beyond == -128 if shifted else False)).all()
    rows = rows[:n, :d]
    return (rows + 256 * (rows < 0) - 128 if shifted else rows).double()


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


def both(x, w, bits):
    """Tokens and features, quantised, and the numbers that were made of them."""
    dithered = bits == 8 and not backend.certain()
    sides = [cpu_integers.QuantizedRows(t, bits, t is x, dithered) for t in (x, w)]
    return *sides, *(numbers(p, len(t), x.shape[1], bits, t is x) for p, t in zip(sides, (x, w), strict=True))


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("d", [1, 7, 512, 4095])  # 4,095: rotated in blocks of every size
def test_no_product_exceeds_its_error_bound(kind, d, bits):
    n, f = 13, 37  # no whole panel of tokens or of features
    x, w = ROWS[kind](n, d), ROWS[kind](f, d)
    w[::3], x[::4] = torch.randn(len(w[::3]), d), torch.randn(len(x[::4]), d)
    x[1] = w[2]  # as aligned as can be: the sum comes close to the largest that 32 bits must hold
    left, right, a, b = both(x, w, bits)
    assert max(a.abs().amax(), b.abs().amax()) <= (127 if bits == 8 else 32_767) and (a @ b.T).abs().amax() < 2**31
    if bits == 8:
        offset = right.offset[:f].double()  # rounded into the start of the sums
        assert torch.equal(right.start[:f].double(), -128 * b.sum(1) - offset.round())
    units = a @ b.T - right.offset[:f].double().round() - left.offset[:n, None].double()
    value = left.scale[:n, None].double() * right.scale[:f].double() * units
    m = cpu_integers.ErrorBounds.of(left, right, 0.0)
    margin = (
        m.token_off[:n, None].double() * m.norm[:f] + m.token_norm[:n, None].double() * m.off[:f] + m.token[:n, None]
    )
    error = (value - x.double() @ w.double().T).abs()
    assert (error <= margin).all()
    # And the bound is worth having: at most half a step an entry off each factor, and rounding.
    lengths = x.norm(dim=1)[:, None].double(), w.norm(dim=1).double()
    steps = left.scale[:n, None] * lengths[1], lengths[0] * right.scale[:f]
    in_fp32 = 2e-4 * (1 + d / 512) * lengths[0] * lengths[1] + 1e-12 * (1 + lengths[0])
    if not right.dithered:
        assert (margin <= 0.51 * d**0.5 * sum(steps) + in_fp32).all()
        return
    if d < 512 or kind.startswith("very") or kind == "zero":  # no typical feature
        return
    # With dither C·√(steps²/12), for features about as long as most, and some slack for the others'.
    usual = (right.scale[:f] / right.scale[:f].median()).log2().abs() < 1
    usual &= (lengths[1] / lengths[1].median()).log2().abs() < 1
    wider = (s + left.scale[:n, None] * right.scale[:f] * d**0.5 for s in steps)
    assert usual.sum() > f / 2
    assert (margin <= 1.6 * cpu_integers.MARGIN * sum(s.square() for s in wider).sqrt() + in_fp32)[:, usual].all()


def test_dither_rounds_by_the_draws_of_the_definition(bits):
    """q = ⌊r/s + u + ½⌋ of the rotated row r; offsets Σ (q − u)·u′ of a token, Σ u·q of a feature."""
    if bits != 8 or backend.certain():
        return
    for d in (1, 48, 512, 700):
        x, w = torch.randn(9, d), torch.randn(40, d)
        left, right, a, b = both(x, w, bits)
        for side, rows, q, t in ((dithered.TOKEN, left, a, x), (dithered.FEATURE, right, b, w)):
            mine, other = (dithered.noise(d, s, torch.device("cpu")) for s in (side, 1 - side))
            n, scale = len(t), rows.scale[: len(t), None].double()
            kept = q - mine if side == dithered.TOKEN else q
            torch.testing.assert_close(rows.offset[:n].double(), (kept * other).sum(1), rtol=1e-5, atol=1e-3)
            back = scale * (q - mine)  # what the product uses: the rotated row within half a step
            torch.testing.assert_close(back.norm(dim=1), t.double().norm(dim=1), rtol=0.1, atol=1e-3)


def test_errors_are_those_of_the_proof(bits):
    """Many pairs: errors are centred, spread as independent uniform ones are, and none comes near the margin."""
    if bits != 8 or backend.certain():
        return
    d = 512
    for kind in ("normal", "one large", "all equal", "halves"):
        x, w = ROWS[kind](600, d) * 3, torch.randn(2000, d)
        left, right, a, b = both(x, w, bits)
        units = a @ b.T - right.offset[:2000].double() - left.offset[:600, None].double()
        error = left.scale[:600, None].double() * right.scale[:2000].double() * units - x.double() @ w.double().T
        by_x, by_w = left.scale[:600, None] * w.norm(dim=1), x.norm(dim=1)[:, None] * right.scale[:2000]
        relative = error / ((by_x.double().square() + by_w.double().square()) / 12).sqrt()
        assert relative.std() == pytest.approx(1, abs=0.1) and relative.abs().amax() < 0.75 * 9.6
        assert relative.mean().abs() < 0.2  # rows and draws are few: their errors share a part


@pytest.mark.parametrize("shape", [(29, 511, 700, 8), (1, 2, 3, 3), (64, 96, 2053, 2053), (300, 40, 5000, 40)])
def test_the_choice_is_that_of_fp32(shape, monkeypatch):
    n, d, f, k = shape
    monkeypatch.setattr(threshold_cpu, "BLOCK", 100)  # several blocks of tokens
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
def test_nan_and_infinity_follow_fp32(bad, where, monkeypatch):
    x, w, b = encoder(20, 16, 90)
    {"x": x, "w": w, "b": b}[where].view(-1)[37] = bad
    got = ops.topk_encode(x, w, b, 5), ops.threshold_encode(x, w, b)
    monkeypatch.setattr(backend, "cpu_product", lambda: "fp32")
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


FREQUENCIES = {
    "random": lambda f: torch.rand(f),
    "ascending": lambda f: torch.logspace(-20, 20, f),
    "none": lambda f: torch.zeros(f),
    "not numbers": lambda f: torch.tensor([torch.nan, -torch.inf, torch.inf, -1.0, 0.0, 2.0]).repeat(f // 6 + 1)[:f],
}


@pytest.mark.parametrize("kind", FREQUENCIES)
@pytest.mark.parametrize("shape", [(70, 40, 700, 8), (5, 511, 33, 33), (3, 2, 3, 1)])
def test_the_choice_does_not_depend_on_the_frequencies(kind, shape):
    n, d, f, k = shape
    x, w, b = encoder(n, d, f)
    w[f // 2 :: 3], b[f // 2 :: 3] = w[0].clone(), b[0].clone()  # ties
    x[::7] = 0
    b[1::4] = 0
    wanted = ops.topk_encode(x, w, b, k)
    got = ops.topk_encode(x, w, b, k, frequency=FREQUENCIES[kind](f))
    assert torch.equal(got.values, wanted.values) and torch.equal(got.indices, wanted.indices)


def test_the_most_frequent_features_stand_first(bits):
    frequency = torch.tensor([0.3, 5.0, 0.0, 4.1, 3.9, 0.26, -2.0, 0.24])  # by powers of two, then by number
    x, w, b = encoder(9, 6, 8)
    encoder_ = Encoder(w, b, frequency=frequency)
    packed = encoder_.integers(x, f"int{bits}")._rows[1]
    order = [1, 3, 4, 0, 5, 7, 2, 6]
    assert packed.order.tolist() == order
    natural = Encoder(w, b).integers(x, f"int{bits}")._rows[1]
    for name in ("scale", "norm", "off", "start", "offset"):
        assert torch.equal(getattr(packed, name)[:8], getattr(natural, name)[order]), name
    assert torch.equal(numbers(packed, 8, 6, bits, False), numbers(natural, 8, 6, bits, False)[order])
    copy = ops.encoder_copy(w)
    assert Encoder(w, b, copy=copy, frequency=frequency).integers(x, f"int{bits}")._rows[1].order is None


@pytest.mark.parametrize("n", [300, 5000])
def test_tokens_are_quantised_once(n, bits, monkeypatch):
    made, rows = [], cpu_integers.QuantizedRows

    def counted(x, bits, tokens, *args, **options):
        made.append(len(x) if tokens else 0)
        return rows(x, bits, tokens, *args, **options)

    monkeypatch.setattr(cpu_integers, "QuantizedRows", counted)
    x, w, b = encoder(n, 24, 70)
    sample = selection.SAMPLE if n > selection.WHOLE and bits == 8 else 0
    for encode in (lambda: ops.topk_encode(x, w, b, 3), lambda: ops.threshold_encode(x, w, b)):
        made.clear()
        encode()
        assert sum(made) == n + sample, made


def test_outlier_columns_do_not_widen_the_int8_bound(bits):
    """Turned rows: without that the margins would be as wide as the values."""
    x, w, b = encoder(300, 512, 900)
    plain = Encoder(w, b).integers(x, f"int{bits}").bounds
    x[:, :3] *= 30
    large = Encoder(w, b).integers(x, f"int{bits}").bounds
    share, before = ((m.token_off * m.norm.median() / (m.token_norm * m.off.median())).median() for m in (large, plain))
    assert share < 1.3**2 * before
    got, pre = ops.topk_encode(x, w, b, 5), x.double() @ w.double().T + b.double()
    torch.testing.assert_close(got.values.double(), pre.topk(5).values.clamp(min=0), rtol=1e-5, atol=1e-5)


def test_rows_fall_back_to_the_next_product(bits, monkeypatch):
    used = []
    made = cpu_integers.IntProduct
    monkeypatch.setattr(cpu_integers, "IntProduct", lambda *a: (used.append((a[1].bits, len(a[0]))), made(*a))[1])
    x, w, b = encoder(150, 32, 3000)
    w[1000:] = w[0] * (1 + 1e-4 * torch.randn(2000, 1))  # closer than 8 bits can tell, and far apart in 16
    x[:70] = w[0] * 5
    b.zero_()
    got = ops.topk_encode(x, w, b, 6)
    pre = x.double() @ w.double().T + b.double()
    torch.testing.assert_close(got.values.double(), pre.topk(6).values.clamp(min=0), rtol=1e-5, atol=1e-6)
    if bits == 8:
        assert used[-1][0] == 16 and 70 <= used[-1][1] < 80  # those, and few of the others


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
