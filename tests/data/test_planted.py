"""A planted dictionary: frequencies, correlations and hierarchies within binomial bounds, exact position, memory."""

import json
import subprocess
import sys

import pytest
import torch

from monosem.data.forest import Hierarchy
from monosem.data.planted import PlantedDictionary, Topics

N = 20_000
TREES = Hierarchy(trees=6, branching=3, depth=2, child_probability=0.6, child_exponent=0.7)


def make(**changes) -> PlantedDictionary:
    options = {"hierarchy": TREES, "topics": Topics(5, 0.2, 0.4), "batch_size": N} | changes
    return PlantedDictionary(**{"d_in": 24, "n_features": 120, "active": 6.0} | options)


def active(source: PlantedDictionary, number: int = 0) -> torch.Tensor:
    return source.batch_and_code(number)[1].to_dense() > 0


def close(share: torch.Tensor, expected: torch.Tensor, n: torch.Tensor | int) -> None:
    """Within five standard deviations of a binomial share."""
    n = torch.as_tensor(n, dtype=torch.float64)
    assert ((share.double() - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt() + 1e-12).all()


@pytest.mark.parametrize("topics", [None, Topics(5, 0.2, 0.4), Topics(1, 0.5, 1.0)], ids=["independent", "five", "one"])
def test_features_have_their_probabilities(topics):
    source = make(topics=topics)
    assert float(source.probabilities.sum()) == pytest.approx(6, rel=1e-9)
    close(active(source).double().mean(0), source.probabilities, N)


def test_probabilities_are_zipfian_and_capped():
    p = make(hierarchy=None, exponent=1.0, max_probability=0.3).probabilities
    free = p < 0.3
    assert p.max() == 0.3 and 1 < int((~free).sum()) < 30
    rank = torch.arange(1, 121, dtype=torch.float64)
    torch.testing.assert_close(p[free] * rank[free], (p * rank)[-1].expand(int(free.sum())))
    assert make(hierarchy=None, exponent=0.0).probabilities.unique().numel() == 1


def test_a_child_is_active_only_with_its_parent():
    source = make()
    fired, child = active(source), source.parents >= 0
    assert not (fired[:, child] & ~fired[:, source.parents[child]]).any()
    given = fired[:, child].sum(0) / fired[:, source.parents[child]].sum(0)
    expected = TREES.conditional().repeat(int(child.sum()) // 3)
    close(given, expected, fired[:, source.parents[child]].sum(0))
    assert source.depths.bincount().tolist() == [120 - 18 - 54, 18, 54]
    assert source.parents[6:24].tolist() == [i // 3 for i in range(18)]
    assert source.depths[source.parents[24:78]].unique().tolist() == [1]


def test_exclusive_children_are_never_together():
    source = make()
    assert int(active(source)[:, 6:24].view(N, 6, 3).sum(2).max()) == 1
    both = make(hierarchy=Hierarchy(6, 3, 1, 1.5, exclusive=False))
    fired = active(both)
    parent, children = fired[:, :6], fired[:, 6:24].view(N, 6, 3)
    close((children[..., 0] & children[..., 1]).sum(0) / parent.sum(0), torch.tensor(0.25), parent.sum(0))


def test_features_of_one_topic_are_active_together():
    source = make(hierarchy=None, exponent=0.0, active=12.0, topics=Topics(4, 0.25, 0.6))
    fired, p = active(source).double(), source.probabilities[0]
    together = fired.T @ fired / N
    same = torch.arange(120)[:, None] % 4 == torch.arange(120) % 4
    pairs = ~torch.eye(120, dtype=torch.bool)
    lifted = p * p * (1 + 0.6**2 * 0.75 / 0.25)
    close(together[same & pairs], lifted, N)
    close(together[~same], p * p, N)


def test_values_and_directions():
    source = make(magnitude_std=0.2, noise=0.0)
    x, code = source.batch_and_code(3)
    dense = code.to_dense()
    torch.testing.assert_close(x, dense @ source.features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(source.features.norm(dim=1), torch.ones(120))
    roots = dense[:, :6][dense[:, :6] > 0]
    assert float(roots.mean()) == pytest.approx(1, abs=0.01) and float(roots.std()) == pytest.approx(0.2, abs=0.01)
    assert not torch.equal(make(noise=0.1).batch(3), x)


@pytest.mark.parametrize("scaled", [True, False])
def test_values_of_children(scaled):
    source = make(hierarchy=Hierarchy(6, 3, 2, 0.8, magnitude=0.5, scaled=scaled, cosine=0.4), magnitude_std=0.2)
    dense = source.batch_and_code(0)[1].to_dense()
    child, parent = dense[:, 6:24], dense[:, torch.arange(18) // 3]
    both = child > 0
    assert float(child[both].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(dense[:, 24:78][dense[:, 24:78] > 0].mean()) == pytest.approx(0.25, abs=0.01)
    correlation = torch.corrcoef(torch.stack([child[both], parent[both]]))[0, 1]
    assert correlation > 0.6 if scaled else correlation.abs() < 0.05
    cosine = (source.features[6:78] * source.features[source.parents[6:78]]).sum(1)
    torch.testing.assert_close(cosine, torch.full((72,), 0.4))


def test_batches_depend_on_the_settings_and_the_number_only():
    one, same, other = (make(seed=seed, batch_size=64) for seed in (3, 3, 4))
    assert torch.equal(one.batch(5), same.batch(5)) and torch.equal(one.features, same.features)
    assert not torch.equal(one.batch(5), one.batch(6)) and not torch.equal(one.batch(5), other.batch(5))
    (first, _), (second, _) = one.held_out(2)
    assert torch.equal(first, next(iter(same.held_out(1)))[0]) and not torch.equal(first, second)


def test_resume():
    source = make(batch_size=32, batches=6)
    batches = iter(source)
    for _ in range(4):
        next(batches)
    resumed = make(batch_size=32, batches=6)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert [torch.equal(a, b) for a, b in zip(batches, resumed, strict=True)] == [True, True]
    with pytest.raises(ValueError, match=r"other planted activations \(topics: .* there, None here\)"):
        make(batch_size=32, topics=None).load_state_dict(source.state_dict())
    assert json.loads(json.dumps(source.fingerprint()))["kind"] == "planted activations"


MILLION = """
import resource, torch
from monosem.data.planted import Hierarchy, PlantedDictionary, Topics
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = PlantedDictionary(
    8, 1_000_000, 30.0, hierarchy=Hierarchy(5000, 4, 3, 0.7), topics=Topics(64, 0.2, 0.3), max_probability=0.2,
    batch_size=4096, dtype=torch.bfloat16,
)
x, code = source.batch_and_code(0)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(used, float(code.l0()), x.dtype, source.parents.max().item())
"""


def test_a_million_features_need_no_array_of_tokens_by_features():
    """Bools of 4,096 tokens × 10⁶ features would take 4 GB; per feature about 150 bytes are kept, and as many used."""
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=True)
    kilobytes, l0, dtype, parent = done.stdout.split()
    assert int(kilobytes) < 500_000
    assert float(l0) == pytest.approx(30, abs=0.8)
    assert dtype == "torch.bfloat16" and int(parent) == 5000 * (1 + 4 + 16) - 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"d_in": 0}, "d_in: got 0; wanted an integer ≥ 1"),
        ({"n_features": 1.5}, "n_features: got 1.5"),
        ({"batch_size": True}, "batch_size: got True"),
        ({"active": 0}, "active: got 0; wanted .* at most"),
        ({"active": 100.0}, r"active: got 100.0; wanted .* at most 21.5: all at max_probability=0.4"),
        ({"exponent": -1}, "exponent: got -1; wanted a number ≥ 0"),
        ({"max_probability": 1}, "max_probability: got 1; wanted a number from 0 to below 1"),
        ({"noise": float("nan")}, "noise: got nan"),
        ({"dtype": torch.int8}, "dtype: got torch.int8; wanted a floating type"),
        ({"n_features": 77}, "hierarchy: got 78 features in 6 trees; wanted at most n_features=77. Give fewer"),
        ({"topics": Topics(121), "hierarchy": None}, "topics.count: got 121; wanted at most the 120 features"),
        ({"topics": Topics(2, 0.1, 1.0), "active": 20.0}, "topics: got a lift of 10, .* Lower the coupling"),
    ],
)
def test_bad_arguments(bad, message):
    with pytest.raises(ValueError, match=message):
        make(**bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"count": 0}, "topics.count: got 0"),
        ({"probability": 0}, "topics.probability: got 0; wanted a number above 0"),
        ({"probability": 1.0}, "topics.probability: got 1.0; wanted a number from 0 to below 1"),
        ({"coupling": 1.2}, "topics.coupling: got 1.2; wanted a number from 0 to 1"),
    ],
)
def test_bad_topics(bad, message):
    with pytest.raises(ValueError, match=message):
        Topics(**{"count": 3} | bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"trees": 0}, "hierarchy.trees: got 0; wanted an integer ≥ 1"),
        ({"depth": 1.0}, "hierarchy.depth: got 1.0"),
        ({"child_probability": 1.1}, "hierarchy.child_probability: got 1.1; wanted .* at most 1"),
        ({"child_probability": 0}, "hierarchy.child_probability: got 0"),
        ({"child_probability": 3.0, "child_exponent": 1.0, "exclusive": False}, "first child .* probability 1.44"),
        ({"child_exponent": -1}, "hierarchy.child_exponent: got -1"),
        ({"magnitude": 0}, "hierarchy.magnitude: got 0; wanted a number above 0"),
        ({"cosine": 1.0}, "hierarchy.cosine: got 1.0; wanted a number from 0 to below 1"),
    ],
)
def test_bad_hierarchies(bad, message):
    with pytest.raises(ValueError, match=message):
        Hierarchy(**{"trees": 3} | bad)
