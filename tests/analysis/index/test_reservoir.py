"""Lists of the best, and of a fair sample, against a sort of everything."""

import torch

from monosem.analysis.index.reservoir import Reservoir, scramble


def offers(count=400, lists=6, values=60):
    generator = torch.Generator().manual_seed(0)
    where = torch.randint(0, lists, (count,), generator=generator)
    return where, torch.randint(1, values, (count,), generator=generator).float(), torch.arange(count)  # with ties


def test_the_largest_are_those_of_a_full_sort():
    top = Reservoir(7, 5, "value")  # list 6 stays empty
    lists, values, places = offers()
    for part in torch.arange(400).split(37):
        top.update(lists[part], values[part], places[part])
    for number in range(6):
        mine = places[lists == number]
        wanted = mine[torch.argsort(values[mine], descending=True, stable=True)][:5]
        assert top.places[number].tolist() == wanted.tolist()
        assert top.values[number].tolist() == values[wanted].tolist()
    assert top.places[6].tolist() == [-1] * 5


def test_a_sample_does_not_depend_on_the_block_size():
    lists, values, places = offers()
    samples = []
    for size in (400, 11):
        sample = Reservoir(6, 8, "random", seed=5, wide=False)
        for part in torch.arange(400).split(size):
            sample.update(lists[part], values[part], places[part])
        samples.append(sample.places)
    assert torch.equal(*samples) and samples[0].dtype == torch.int32
    mine = places[lists == 2]
    assert set(samples[0][2].tolist()) == set(mine[torch.argsort(scramble(mine, 5), descending=True)][:8].tolist())


def test_every_entry_is_as_likely_as_any_other():
    places = torch.arange(20)
    hits = torch.zeros(20)
    for seed in range(2000):
        sample = Reservoir(1, 5, "random", seed)
        sample.update(torch.zeros(20, dtype=torch.int64), torch.ones(20), places)
        hits[sample.places[0]] += 1
    # Binomial(2000, 1/4): mean 500, standard deviation 19.4; four of them for 20 counts.
    assert hits.sum() == 10_000 and (hits - 500).abs().max() < 4 * 19.4
