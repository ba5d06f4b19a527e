"""The histogram and the samples of its bins, exact while the range grows."""

import numpy as np
import pytest
import torch

from monosem.analysis.index.activation_histograms import ActivationHistograms


def test_counts_are_exact_while_the_range_grows():
    generator = torch.Generator().manual_seed(1)
    levels = ActivationHistograms(3, 2, bins=8, per_bin=300)
    values = torch.rand(600, generator=generator) * torch.linspace(0.1, 9, 600)
    features, source = torch.arange(600) % 2, torch.arange(600) // 2 % 2
    for part in torch.arange(600).split(50):
        levels.update(features[part], values[part], part, [(torch.arange(len(part)), source[part])])
    for feature in range(2):
        upper = float(levels.upper[feature])
        mine = features == feature
        assert upper / 2 <= values[mine].max() <= upper
        edges = np.linspace(0, upper, 9)
        for s in range(2):
            wanted = np.histogram(values[mine & (source == s)].numpy(), edges)[0]
            assert levels.counts[feature, s].tolist() == wanted.tolist()
        for bin in range(8):  # with room for all, every bin holds all of its entries
            places = levels.sample.places[feature * 8 + bin]
            inside = mine & (values >= edges[bin]) & (values < edges[bin + 1])
            assert sorted(p for p in places.tolist() if p >= 0) == inside.nonzero().flatten().tolist()
    assert levels.counts[2].sum() == 0
    with pytest.raises(ValueError, match="even number"):
        ActivationHistograms(3, 2, bins=7, per_bin=1)


def test_merged_samples_are_those_of_one_pass():
    """Where the range doubles late, the samples are those that the final bins would have drawn from the beginning."""
    values = torch.cat([torch.linspace(0.01, 1, 500), torch.tensor([3.9])])
    places, features = torch.arange(501), torch.zeros(501, dtype=torch.int64)
    grown, known = ActivationHistograms(1, 1, 8, per_bin=6, seed=3), ActivationHistograms(1, 1, 8, per_bin=6, seed=3)
    for part in torch.arange(501).split(100):
        column = [(torch.arange(len(part)), features[part])]
        grown.update(features[part], values[part], places[part], column)
    assert float(grown.upper[0]) > 3.9
    known.upper.copy_(grown.upper)
    known.update(features, values, places, [(places, features)])
    assert torch.equal(grown.counts, known.counts)
    assert torch.equal(grown.sample.places, known.sample.places)


def test_nothing_depends_on_how_the_text_is_cut():
    """Values of many sizes, powers of two among them."""
    generator = torch.Generator().manual_seed(2)
    values = torch.cat(
        [2.0 ** torch.randint(-30, 30, (200,), generator=generator), torch.rand(300, generator=generator)]
    )
    values, places = values[torch.randperm(500, generator=generator)], torch.arange(500)
    found = []
    for size in (1, 7, 500):
        levels = ActivationHistograms(3, 1, 8, per_bin=2)
        for part in places.split(size):
            levels.update(part % 3, values[part], part, [(torch.arange(len(part)), torch.zeros_like(part))])
        found.append(levels.arrays())
    for other in found[1:]:
        for name, array in found[0].items():
            assert torch.equal(other[name], array), name
