"""The choice of features: by rules, none twice, varied, and fair at the end."""

from types import SimpleNamespace

import pytest
import torch

from monosem.analysis.selection import choose
from monosem.analysis.sources import SourceMoments


@pytest.fixture
def facts():
    """40 features, 1000 tokens of four sources; feature f fires 5·(f + 1) times, on source f % 4; 39 is dead."""
    moments = SourceMoments(40, ["ar_x", "code", "html", "prose"])
    moments.tokens[:] = 250.0
    counts = 5 * torch.arange(1, 41)
    counts[39] = 0
    moments.active[torch.arange(40), torch.arange(40) % 4] = counts.double()
    moments.mass.copy_(moments.active)
    moments.square.copy_(counts)
    index = SimpleNamespace(counts=counts, density=counts.double() / 1000, moments=moments)
    logits = SimpleNamespace(skewness=torch.arange(40).float().flip(0))
    return index, logits


def test_a_feature_that_is_best_for_two_sources_is_shown_once(facts):
    index, logits = facts
    others = torch.tensor([f for f in range(40) if f % 4 >= 2 and f != 38])
    for sums in (index.moments.active, index.moments.mass):
        sums[others] = 0.0
        sums[38] = torch.tensor([0.0, 0.0, 90.0, 90.0])
    index.moments.square[38] = 180
    groups = {g.title: g.features for g in choose(index, logits, {"Arabic": [0]})}
    everything = [f for features in groups.values() for f in features]
    assert 38 in groups["Other kinds of text"] and len(everything) == len(set(everything))


def test_features_are_chosen_by_the_stated_rules(facts):
    groups = {g.title: g.features for g in choose(*facts, {"Arabic": [0]}, per_label=2, random=5, sharp=8)}
    everything = [f for features in groups.values() for f in features]
    assert len(everything) == len(set(everything)) and 39 not in everything
    assert groups["Arabic"] == (36, 32)  # the more often it fires on its source, the better it correlates
    assert set(groups["Other kinds of text"]) == {37, 38, 35}
    for features in (groups["From common to rare"], groups["Sharpest predictions"]):
        assert all(facts[0].counts[f] >= 20 for f in features)
    kinds = [f % 4 for f in groups["Sharpest predictions"]]
    assert all(kinds.count(k) <= 2 for k in range(4))
    sharp = groups["Sharpest predictions"]
    assert list(sharp) == sorted(sharp)  # the skewness falls with the number
    assert len(groups["Drawn blindly"]) == 5


def test_the_random_group_follows_the_seed(facts):
    def drawn(seed):
        return choose(*facts, {}, seed=seed)[-1].features

    assert drawn(1) == drawn(1) != drawn(2)
