"""Counts in bounded memory: exact where there is room, within their bounds where there is not."""

from collections import Counter

import torch

from monosem.analysis.index.space_saving import SpaceSaving


def feed(frequent, rows, ids, weights, size):
    for part in torch.arange(len(rows)).split(size):
        frequent.update(rows[part], ids[part], weights[part])


def test_counts_are_exact_while_slots_suffice():
    generator = torch.Generator().manual_seed(0)
    rows, ids = torch.randint(0, 3, (500,), generator=generator), torch.randint(0, 9, (500,), generator=generator)
    weights = torch.rand(500, generator=generator)
    frequent = SpaceSaving(4, 9, slots=9)
    feed(frequent, rows, ids, weights, 60)
    for row in range(3):
        wanted = Counter(ids[rows == row].tolist())
        got = {i: n for i, n in zip(frequent.ids[row].tolist(), frequent.counts[row].tolist(), strict=True) if i >= 0}
        assert got == wanted and not frequent.missed[row].any()
        for i, total in zip(frequent.ids[row].tolist(), frequent.sums[row].tolist(), strict=True):
            if i >= 0:
                assert abs(total - float(weights[(rows == row) & (ids == i)].sum())) < 1e-4
    assert frequent.ids[3].tolist() == [-1] * 9


def test_error_bounds_hold_when_slots_run_out():
    generator = torch.Generator().manual_seed(1)
    common = torch.arange(10).repeat_interleave(torch.arange(30, 130, 10))
    rare = torch.randint(10, 1000, (600,), generator=generator)
    ids = torch.cat([common, rare])
    ids = ids[torch.randperm(len(ids), generator=generator)]
    frequent = SpaceSaving(1, 1000, slots=16)
    feed(frequent, torch.zeros(len(ids), dtype=torch.int64), ids, torch.ones(len(ids)), 25)
    true = Counter(ids.tolist())
    floor = int(frequent.floor[0])
    assert floor <= len(ids) / 16
    held = frequent.ids[0].tolist()
    assert {i for i, n in true.items() if n > floor} <= set(held)
    assert {9, 8, 7, 6, 5} <= set(held)
    slots = zip(held, frequent.counts[0].tolist(), frequent.missed[0].tolist(), frequent.sums[0].tolist(), strict=True)
    for i, count, missed, total in slots:
        assert count <= true[i] <= count + missed and total == count
