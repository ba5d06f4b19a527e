"""Each way to find TopK's candidates, against the definition; and that what is left out is below the threshold."""

import pytest
import torch
from ops.cases import encoder, here

from monosem import ops
from monosem.ops import backend, gpu, reference
from monosem.ops.gpu import available

if available("triton"):
    pytest.skip(available("triton"), allow_module_level=True)
from monosem.kernels import launch

pytestmark = pytest.mark.usefixtures("device", "triton_only")


@pytest.fixture(params=[*launch.FORMS, "int8"])
def form(request, monkeypatch):
    """In small blocks of features, so that the threshold of a slab rises."""
    from monosem.ops.selection import triton as selection_triton

    if request.param == "int8":
        monkeypatch.setattr(backend, "gpu_product", lambda: "int8")
        return request.param
    if gpu.interpreted():
        monkeypatch.setitem(launch._INTERPRETER, "select", {"form": request.param})
        monkeypatch.setitem(launch._INTERPRETER, "select_active", {"form": request.param.replace("slab", "scan")})
    else:
        monkeypatch.setitem(launch._CHOICES, "select", lambda d, arch: {"form": request.param})
        monkeypatch.setitem(
            launch._CHOICES, "select_active", lambda d, arch: {"form": request.param.replace("slab", "scan")}
        )
    monkeypatch.setattr(selection_triton, "SLAB", 512)
    return request.param


def integers_of(n, d, f, seed=0):
    """Products of small integers are exact in every order of addition, so that answers must be equal."""
    g = torch.Generator().manual_seed(seed)
    parts = (torch.randint(-3, 4, size, generator=g, device="cpu").float() for size in ((n, d), (f, d), (f,)))
    return tuple(here(t) for t in parts)


def is_the_definition(x, w, b, k):
    got, wanted = ops.topk_encode(x, w, b, k), reference.topk_encode(x.double(), w.double(), b.double(), k)
    assert torch.equal(got.values.double(), wanted[0]) and torch.equal(got.indices, wanted[1])


@pytest.mark.parametrize("shape", [(3, 7, 2053, 5), (2, 65, 2600, 33), (1, 1, 2049, 1)])
def test_ties_and_odd_shapes(form, shape):
    n, d, f, k = shape
    is_the_definition(*integers_of(n, d, f), k)


def test_values_that_are_equal_in_bf16(form):
    """In float64 the k-th and the next differ by more than fp32 loses, and by less than bf16 does."""
    x, w, b = encoder(3, 96, 2100, seed=5)
    w[1000:1040] = w[0] * (1 + torch.arange(40)[:, None] * 2.0**-14)
    x[0] = w[0] * 3
    exact = x.double() @ w.double().T + b.double()
    exact[:, 1000:1040] -= b[1000:1040].double()
    b[1000:1040] = 0.0
    best = exact.sort(dim=1, descending=True)
    k = next(k for k in (12, 11, 13, 10, 14) if ((best.values[:, k - 1] - best.values[:, k]) > 2e-5).all())
    got = ops.topk_encode(x, w, b, k)
    assert torch.equal(got.indices.long().sort().values, best.indices[:, :k].sort().values)


def test_nan_equal_and_empty_rows(form):
    x, w, b = integers_of(6, 4, 2100)
    x[1, 2], x[2] = torch.nan, 0.0
    x[4] = x[3]
    got, wanted = ops.topk_encode(x, w, b, 9), reference.topk_encode(x, w, b, 9)
    assert got.values[1].isnan().all() and got.indices[1].tolist() == list(range(9))
    good = [0, 2, 3, 4, 5]
    assert torch.equal(got.values[good], wanted[0][good]) and torch.equal(got.indices[good], wanted[1][good])
    assert torch.equal(got.indices[3], got.indices[4])


def test_infinite_pre_activations(form):
    x, w, b = integers_of(2, 4, 2100)
    b[::3] = -torch.inf
    b[7] = torch.inf
    is_the_definition(x, w, b, 9)
    b[8:] = -torch.inf  # fewer than k are left
    is_the_definition(x, w, b, 9)


def test_a_feature_far_longer_than_the_rest(form):
    x, w, b = integers_of(2, 16, 2300)
    w[2100] *= 2.0**20
    w[17] *= 2.0**20
    is_the_definition(x, w, b, 6)


def test_features_left_out_are_below_the_threshold(form):
    from monosem.ops.selection import triton as encode
    from monosem.ops.selection.triton_plan import Plan

    x, w, b = encoder(4, 200, 2100)
    w[::7] *= 5.0
    x[1] *= 100.0
    p = encode.Problem(x, w, b, form=form)
    if form == "slab":
        keys, count, threshold = p.sift(64, 8)
    else:
        threshold = p.thresholds(Plan(1024, False, 256, 9, 60))
        keys, count = p.collect(threshold, 1024, False, form in encode.LOOSE)
    assert (count <= keys.shape[1]).all() and (count >= 8).all()
    exact = p.x.double() @ p.w.double().T + p.b.double()
    for row in range(4):
        kept = (keys[row, : count[row]] & (2**32 - 1)) ^ (2**32 - 1)
        left = torch.ones(2100, dtype=torch.bool)
        left[kept.long()] = False
        assert left.sum() == 2100 - count[row]  # none twice
        assert (exact[row, left] <= threshold[row].double()).all()
        assert threshold[row] > exact[row].sort(descending=True).values[800]  # and it is a threshold
        if form == "slab":
            assert (kept.diff() > 0).all()  # in their order: the same each time
            assert threshold[row] < exact[row].sort(descending=True).values[7]  # certified


def test_the_active_features_of_relu(form):
    x, w, b = integers_of(3, 6, 300)
    x[2] = 0
    b[40:60] = -torch.inf
    got, wanted = ops.threshold_encode(x, w, b), reference.threshold_encode(x, w, b)
    assert torch.equal(got.values, wanted[0]) and torch.equal(got.indices, wanted[1])


def test_the_setting_of_bf16_sums_is_restored():
    from monosem.ops.precision import summed_in_fp32

    matmul = torch.backends.cuda.matmul
    for choice in (True, False):
        matmul.allow_bf16_reduced_precision_reduction = choice
        with summed_in_fp32(), summed_in_fp32():
            assert not matmul.allow_bf16_reduced_precision_reduction
        assert matmul.allow_bf16_reduced_precision_reduction == choice
    matmul.allow_bf16_reduced_precision_reduction = True
