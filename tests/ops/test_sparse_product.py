"""The product of sparse tokens, as lists of what differs from a column's usual value: its bounds, choice and use."""

import pytest
import torch
from ops.cases import encoder, poisoned

from monosem import ops
from monosem.ops import backend
from monosem.ops.backend import native as _C
from monosem.ops.selection import cpu_integers
from monosem.ops.selection.cpu import LISTED, LISTED_ANEW
from monosem.ops.step_stats import recording
from monosem.ops.threshold_encode import cpu as threshold_cpu

BUFFERS = torch.empty


@pytest.fixture(autouse=True)
def native(native_only, monkeypatch):
    monkeypatch.setattr(torch, "empty", poisoned(BUFFERS))


@pytest.fixture
def by(monkeypatch):
    """by("sparse", x, w, b, k): TopK and the active features with this product."""

    def encode(product, x, w, b, k, **options):
        monkeypatch.setattr(backend, "cpu_product", lambda: product)
        monkeypatch.setattr(backend, "free_to_choose", lambda: False)
        return ops.topk_encode(x, w, b, k, **options), ops.threshold_encode(x, w, b)

    return encode


def neurons(n, d, f, share=0.1, seed=0, centred=True):
    """Random x [n, d] after a ReLU, less a bias; w [f, d] and b [f]."""
    x, w, b = encoder(n, d, f, seed=seed)
    x = x.abs() * (torch.rand(n, d) < share)
    return x - torch.randn(d) if centred else x, w, b


def numbers(lists, n, d):
    """The int16 numbers of the first n tokens [n, d] in lists."""
    panels = _C.panels("int16", d)
    out = torch.zeros(lists.padded, 2 * panels.words, dtype=torch.int16)
    packed = lists.packed.view(-1, panels.tokens * panels.words)
    for p, panel in enumerate(packed):
        ends = lists.count[p * panels.tokens : (p + 1) * panels.tokens].long().cumsum(0)
        for i, end in enumerate(ends.tolist()):
            mine = panel[end - int(lists.count[p * panels.tokens + i]) : end]
            columns, both = (mine & 0xFFFFFFFF).int().view(torch.int16), (mine >> 32).int().view(torch.int16)
            left_over = int(len(both) > 0 and both[-1] == 0)  # stands with the last of an odd number of columns
            columns, both = (t[: len(t) - left_over] for t in (columns.int() & 0xFFFF, both))
            assert (columns.diff() > 0).all() and (both != 0).all()
            out[p * panels.tokens + i, columns] = both
    assert (out[n:] == 0).all() and (out[:, d:] == 0).all()
    return out[:n, :d].double()


KINDS = {
    "after a ReLU": lambda n, d: neurons(n, d, 1)[0],
    "not centred": lambda n, d: neurons(n, d, 1, centred=False)[0],
    "dense": lambda n, d: torch.randn(n, d),
    "usual only": lambda n, d: torch.full((n, d), 0.7),
    "far away": lambda n, d: neurons(n, d, 1)[0] + 1e4,
    "one large": lambda n, d: neurons(n, d, 1)[0].index_fill(1, torch.tensor([d // 2]), 1000.0),
    "long": lambda n, d: neurons(n, d, 1)[0] * 1e12,
    "short": lambda n, d: neurons(n, d, 1)[0] * 1e-18,
    "zero": lambda n, d: torch.zeros(n, d),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 7, 512, 1023])
def test_no_product_exceeds_its_error_bound(kind, d):
    n, f = 29, 37  # no whole panel of either
    x, w = KINDS[kind](n, d), torch.randn(f, d)
    if d > 1:
        x[1] = w[2]  # as aligned as can be
    values = torch.empty(d)
    _C.usual_values(x, values)
    usual = cpu_integers.Usual(values, float(values.double().norm()))
    left = cpu_integers.QuantizedRows(x, 16, True, usual=usual)
    right = cpu_integers.QuantizedRows(w, 16, False, usual=usual)
    a = numbers(left, n, d)
    along = w.double() @ values.double()
    torch.testing.assert_close(right.along[:f].double(), along, rtol=1e-5, atol=1e-5 * usual.norm)
    assert (right.along[f:] == 0).all() and a.abs().amax() <= 32_767
    steps = ((x - values).double() / left.scale[:n, None].double()).nan_to_num(posinf=0, neginf=0)
    assert ((a - steps).abs() <= 0.51).all()
    norm = left.norm[:n].double()
    torch.testing.assert_close(norm, (x - values).double().norm(dim=1), rtol=1e-5, atol=1e-14)
    m = cpu_integers.ErrorBounds.of(left, right, 0.0)
    back = left.scale[:n, None].double() * a
    # The features' numbers are those of int16 (test_cpu_integers.py): here only their errors count.
    error = (back + values.double() - x.double()).norm(dim=1)
    assert (error <= left.off[:n].double() * 1.001 + 2.0**-23 * (norm + usual.norm) + 1e-14).all()
    margin = m.token_off[:n, None].double() * m.norm[:f] + m.token_norm[:n, None].double() * m.off[:f]
    product = back @ w.double().T + right.along[:f].double()
    assert ((product - x.double() @ w.double().T).abs() <= margin).all()
    # And the bound is worth having: half a step of 32,512 an entry, and rounding.
    length = w.double().norm(dim=1)
    assert (margin <= (norm[:, None] * d**0.5 / 32_000 + 2e-4 * (norm[:, None] + usual.norm) + 1e-12) * length).all()


SHAPES = [(29, 511, 700, 8), (1, 2, 3, 3), (130, 96, 2053, 40), (300, 40, 5000, 40), (70, 1, 90, 4)]
TOKENS = [
    (1.0, 0.1, True),
    (1e-6, 0.5, False),
    (1e6, 0.0, True),
    (1.0, 0.9, True),
]  # their size, density, whether centred


@pytest.mark.parametrize("shape", SHAPES)
def test_the_choice_is_that_of_int16(shape, by, monkeypatch):
    """To the bit: both score their candidates in the same way."""
    monkeypatch.setattr(threshold_cpu, "BLOCK", 100)
    n, d, f, k = shape
    for seed, (scale, share, centred) in enumerate(TOKENS):
        x, w, b = neurons(n, d, f, share, seed, centred)
        x, b = x * scale, b * scale
        got, wanted = by("sparse", x, w, b, k), by("int16", x, w, b, k)
        for a, c in zip(got, wanted, strict=True):
            assert torch.equal(a.values, c.values) and torch.equal(a.indices, c.indices)
        pre = x.double() @ w.double().T + b.double()
        chosen = pre.gather(1, got[0].indices.long())
        torch.testing.assert_close(got[0].values.double(), chosen.clamp(min=0), rtol=1e-5, atol=2e-5 * scale)
        torch.testing.assert_close(chosen.sum(1), pre.topk(k).values.sum(1), rtol=1e-5, atol=1e-4 * scale * k)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
@pytest.mark.parametrize("where", ["x", "w", "b", "every row of x"])
def test_nan_and_infinity_follow_fp32(bad, where, by):
    x, w, b = neurons(80, 16, 90)
    if where == "every row of x":
        x[:, 3] = bad  # the usual value
    else:
        {"x": x, "w": w, "b": b}[where].view(-1)[37] = bad
    for a, c in zip(by("sparse", x, w, b, 5), by("fp32", x, w, b, 5), strict=True):
        assert torch.equal(a.indices, c.indices) and torch.equal(a.values.isnan(), c.values.isnan())
        torch.testing.assert_close(a.values.nan_to_num(), c.values.nan_to_num(), rtol=1e-5, atol=1e-5)


def test_the_usual_value_is_that_of_most_tokens():
    x = torch.randn(100, 7)
    x[:60, 0] = 2.5
    x[:, 1] = -0.0
    x[:99, 2] = torch.nan
    x[:, 3] = torch.inf
    x[20:75, 4], x[75:, 4] = 0.0, 5.0
    usual = torch.empty(7)
    share = _C.usual_values(x, usual)
    assert usual.tolist() == [2.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert share == pytest.approx((x != usual).float().mean().item())
    assert _C.usual_values(torch.empty(0, 7), usual) == 1


def products_of(x, w, b, **options):
    with recording() as topk:
        ops.topk_encode(x, w, b, 5, **options)
    with recording() as relu:
        ops.threshold_encode(x, w, b, **options)
    assert topk.encoder.tokens == relu.encoder.tokens
    return topk.encoder.tokens


@pytest.mark.parametrize("d", [32, 4096])
def test_lists_are_taken_where_tokens_are_sparse_and_where_nothing_else_was_asked_for(d, monkeypatch):
    monkeypatch.setattr(backend, "free_to_choose", lambda: True)
    below, plain = _C.sparse_below(d), backend.cpu_product()
    if plain not in ("int8", "int16"):
        plain = "int16"
        monkeypatch.setattr(backend, "cpu_product", lambda: plain)
    x, w, b = neurons(2 * LISTED, d, 300, share=below / 2)
    sparse = "sparse" if below else plain
    assert products_of(x, w, b) == {sparse: len(x)}
    assert products_of(x[:LISTED], w, b) == {sparse: LISTED} and products_of(x[1:LISTED], w, b) == {plain: LISTED - 1}
    denser = neurons(len(x), d, 300, share=1.5 * below + 0.01)[0]
    assert products_of(denser, w, b) == {plain: len(x)}
    copy = ops.encoder_copy(w)
    assert products_of(x, w, b, encoder_copy=copy) == {plain: len(x)}
    many = x.repeat(LISTED_ANEW // len(x), 1)
    assert products_of(many, w, b, encoder_copy=copy) == {sparse: LISTED_ANEW}
    assert products_of(many[1:], w, b, encoder_copy=copy) == {plain: LISTED_ANEW - 1}
    monkeypatch.setattr(backend, "free_to_choose", lambda: False)
    assert products_of(x, w, b) == {plain: len(x)}


def test_tokens_that_the_sample_did_not_show(by):
    x, w, b = neurons(1024, 48, 700, share=0.02)
    x[1::2] = torch.randn(512, 48) * 50  # a sample takes every eighth
    for a, c in zip(by("sparse", x, w, b, 9), by("int16", x, w, b, 9), strict=True):
        assert torch.equal(a.values, c.values) and torch.equal(a.indices, c.indices)


def test_any_order_of_features_and_any_number_of_threads(by):
    x, w, b = neurons(501, 70, 3000)
    wanted, before = by("int16", x, w, b, 9), torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            for frequency in (None, torch.rand(3000)):
                for a, c in zip(by("sparse", x, w, b, 9, frequency=frequency), wanted, strict=True):
                    assert torch.equal(a.values, c.values) and torch.equal(a.indices, c.indices)
    finally:
        torch.set_num_threads(before)


def test_thresholds_of_features(monkeypatch):
    x, w, b = neurons(150, 33, 700)
    threshold = torch.rand(700)
    codes = []
    for product in ("sparse", "int16"):
        monkeypatch.setattr(backend, "cpu_product", lambda product=product: product)
        monkeypatch.setattr(backend, "free_to_choose", lambda: False)
        codes.append(ops.threshold_encode(x, w, b, threshold))
    assert torch.equal(codes[0].values, codes[1].values) and torch.equal(codes[0].indices, codes[1].indices)
    assert len(codes[0].values)


def test_bf16_tensors(by):
    x, w, b = (t.bfloat16() for t in neurons(90, 65, 600))
    for a, c in zip(by("sparse", x, w, b, 7), by("int16", x, w, b, 7), strict=True):
        assert torch.equal(a.values, c.values) and torch.equal(a.indices, c.indices)
        assert a.values.dtype == torch.bfloat16


def test_ties_beyond_the_buffer_are_redone(by):
    x, w = torch.ones(7, 3), torch.full((9000, 3), 0.1)
    b = torch.zeros(9000)
    b[4000] = 1e-7
    assert torch.equal(by("sparse", x, w, b, 6)[0].indices, by("fp32", x, w, b, 6)[0].indices)


def test_as_many_columns_as_a_list_can_name(by):
    x, w, b = neurons(5, cpu_integers.WIDEST_LIST, 40, share=0.01)
    x[:, -1], w[:, -1] = torch.arange(5) * 100.0, torch.arange(40) * 10.0
    with recording() as stats:
        got = by("sparse", x, w, b, 4)
    assert stats.encoder.tokens == {"sparse": 10} and not stats.encoder.fallbacks
    for a, c in zip(got, by("int16", x, w, b, 4), strict=True):
        assert torch.equal(a.values, c.values) and torch.equal(a.indices, c.indices)


def test_more_columns_are_multiplied_in_int16(by):
    d = cpu_integers.WIDEST_LIST + 1
    x, w, b = neurons(3, d, 20, share=0.01)
    with recording() as stats:
        by("sparse", x, w, b, 4)
    assert stats.encoder.tokens == {"int16": 6} and stats.encoder.fallbacks == {"too_wide": 6}
    usual = cpu_integers.Usual(torch.zeros(d), 0.0)
    with pytest.raises(ValueError, match="rows: wanted at most 65536 columns"):
        cpu_integers.QuantizedRows(x, 16, True, usual=usual)
