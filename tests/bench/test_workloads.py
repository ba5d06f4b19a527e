import json

import pytest
import torch

from monosem.bench.workloads import VARIANTS, WORKLOADS, Workload
from monosem.nn import KINDS


def test_counts_of_a_small_case_by_hand():
    w = Workload(n=3, d=5, f=7, k=2)
    assert w.product_flops == 2 * 3 * 5 * 7
    assert w.gather_bytes == 3 * (3 * 2) * 5 * 4  # decode and two gradients; six entries; five floats
    assert w.adam_bytes == 2 * (7 * 5) * (3 * 4 * 2)  # two matrices; w, m and v, read and written
    parameters = 2 * 7 * 5 + 7 + 5
    assert w.state_bytes("fp32") == 3 * 4 * parameters
    assert [w.state_bytes(p) - w.state_bytes("fp32") for p in ("bf16", "int16", "sparse", "int8")] == [70, 70, 70, 35]


def test_batches_are_sums_of_k_directions():
    w = WORKLOADS["tiny"]
    directions = w.directions()
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(w.f))
    x = w.batches(2, directions)
    assert x.shape == (2, w.n, w.d) and not torch.equal(x[0], x[1])
    # Each term has mean weight 1/2, so the squared norm is near K/3 (E[u²] = 1/3) and cross terms average out.
    assert float(x.square().sum(-1).mean()) == pytest.approx(w.k / 3, rel=0.1)
    assert torch.equal(x, w.batches(2, directions)), "the same batches every time"


def test_a_relu_leaves_a_share_of_the_entries():
    w = WORKLOADS["tiny"].with_(density=0.11)
    x = w.batches(2, w.directions())
    assert (x >= 0).all() and (x > 0).float().mean((1, 2)).tolist() == pytest.approx([0.11, 0.11], abs=0.002)
    assert str(w).endswith("11% of the entries not 0") and w.job()["density"] == 0.11
    for bad in (0.0, -0.5, 1.5):
        with pytest.raises(ValueError, match=r"^density: got .*; wanted a share above 0"):
            w.with_(density=bad)


def test_relu_starts_with_k_features_active_on_average():
    w = WORKLOADS["tiny"].with_(kind="relu")
    directions = w.directions()
    x = w.batches(1, directions)
    bias = w.bias(directions, x)
    active = (x[0] @ directions.T + bias > 0).sum(1).float().mean()
    assert bias < 0 and float(active) == pytest.approx(w.k, rel=0.05)
    assert WORKLOADS["tiny"].bias(directions, x) == 0.0


@pytest.mark.parametrize("bad", [{"n": 0}, {"d": -1}, {"k": 9, "f": 8}, {"kind": "dense"}, {"f": 1.5}])
def test_bad_shapes_name_the_argument(bad):
    name = "k" if "k" in bad else next(iter(bad))
    with pytest.raises(ValueError, match=f"^{name}: got"):
        Workload(**{"n": 4, "d": 4, "f": 8, "k": 2, **bad})


def test_kinds_take_what_they_have_of_the_offered_settings():
    w = WORKLOADS["tiny"]
    assert w.of("matryoshka").architecture.prefixes == (32, 64, 128, 256, 512)
    assert w.of("jumprelu").architecture.target_l0 == w.k and w.of("jumprelu_free").architecture.target_l0 is None
    assert w.of("relu_free").architecture.decoder_norm == "free" != w.of("relu").architecture.decoder_norm
    job = json.loads(json.dumps(w.of("relu_free").job()))
    assert job["settings"]["decoder_norm"] == "free" and job["settings"]["l1_coefficient"] == w.l1
    assert str(w.of("relu_free")).startswith("tiny: relu (decoder_norm=free), N=256")
    assert w.of("relu_free").of("topk") == w


def test_a_setting_that_the_kind_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"^settings: got prefixes; kind 'relu' has d_in, d_sae, l1"):
        WORKLOADS["tiny"].with_(kind="relu", settings={"prefixes": [8]})


def test_other_libraries_get_numbers_for_what_we_leave_to_the_data():
    for name in [*KINDS, *VARIANTS]:
        assert not WORKLOADS["tiny"].of(name).architecture.unmeasured, name
