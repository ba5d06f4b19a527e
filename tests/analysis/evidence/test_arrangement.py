"""Planted bundles of directions: apart on the map, one cluster each, together in the order; the same twice."""

import numpy as np
import pytest

from monosem.analysis.evidence import arrangement


def bundles(size=20, count=4, d=12, stray=2):
    """``count`` bundles of directions, shuffled, and some that belong to none: (directions, bundle or −1)."""
    g = np.random.default_rng(0)
    axes = np.repeat(np.eye(d)[:count], size, axis=0) + 0.03 * g.standard_normal((count * size, d))
    apart = np.eye(d)[count : count + stray]
    bundle = np.concatenate([np.repeat(np.arange(count), size), np.full(stray, -1)])
    mixed = g.permutation(len(bundle))
    return np.concatenate([axes, apart]).astype(np.float32)[mixed], bundle[mixed]


def test_neighbours_are_exact():
    directions, _ = bundles()
    ids, distances = arrangement.neighbours(directions)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    wanted = np.sort(1 - unit @ unit.T, axis=1)[:, : arrangement.NEIGHBOURS].clip(min=0)
    assert np.array_equal(ids[:, 0], np.arange(len(ids))) and np.allclose(distances[:, 0], 0)
    inside = wanted < 1  # beyond a right angle all are equally far
    assert np.allclose(distances[inside], wanted[inside], atol=2e-6)
    few = arrangement.neighbours(directions[:5])
    assert few[0].shape == (5, 5) and all(len(set(row)) == 5 for row in few[0].tolist())


def test_groups_of_places_are_clusters_and_strays_are_not():
    g = np.random.default_rng(1)
    heaps = np.concatenate([g.normal(at, 0.1, (9, 2)) for at in (0, 10, 20)])
    cluster = arrangement.clusters(np.concatenate([heaps, [[100.0, -100.0]]]))
    assert [len(set(cluster[i : i + 9])) for i in (0, 9, 18)] == [1, 1, 1] and len(set(cluster[:27])) == 3
    assert cluster[-1] == -1
    assert arrangement.clusters(np.zeros((3, 2))).tolist() == [-1, -1, -1]


def test_clusters_are_contiguous_in_the_order():
    places, cluster = np.array([5.0, 0.0, 1.0, 9.0, 4.0, 2.0]), np.array([0, -1, 0, 0, -1, -1])
    assert arrangement.in_line(places, cluster).tolist() == [1, 5, 4, 2, 0, 3]  # the cluster at its mean, 5
    assert arrangement.in_line(places, np.full(6, -1)).tolist() == [1, 2, 5, 4, 0, 3]


def test_planted_bundles_of_directions_are_clustered():
    pytest.importorskip("umap", reason="umap-learn is not installed (pip install umap-learn)")
    directions, bundle = bundles()
    arranged = arrangement.arrange(directions, 2)
    assert arranged.places.min() == 0 and arranged.places.max() == 1
    assert sorted(arranged.order.tolist()) == list(range(len(bundle)))
    for b in range(4):
        members = arranged.cluster[bundle == b]
        assert len(set(members.tolist())) == 1 and members[0] >= 0, "one cluster a bundle"
        assert set(bundle[arranged.cluster == members[0]].tolist()) <= {b, -1}, "and nothing of another"
        centre = arranged.places[bundle == b].mean(0)
        inside = np.linalg.norm(arranged.places[bundle == b] - centre, axis=1).mean()
        others = [np.linalg.norm(arranged.places[bundle == o].mean(0) - centre) for o in range(4) if o != b]
        assert min(others) > 3 * inside
    in_line = bundle[arranged.order]
    in_line = in_line[in_line >= 0]
    assert (in_line[1:] != in_line[:-1]).sum() == 3, "the order keeps each bundle together"
    seen = arranged.cluster[arranged.order]
    firsts = [int(c) for i, c in enumerate(seen) if c >= 0 and c not in seen[:i]]
    assert firsts == sorted(firsts), "clusters are numbered along the order"
    again = arrangement.arrange(directions, 2)
    assert all(np.array_equal(getattr(arranged, name), getattr(again, name)) for name in ("places", "cluster", "order"))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(arrangement.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install umap-learn scikit-learn"):
        arrangement.arrange(np.eye(4, dtype=np.float32), 2)
