"""Which features fire together, against the product of the dense on/off matrices."""

import pytest
import torch

from monosem.analysis.index import cooccurrence as module
from monosem.analysis.index.cooccurrence import Cooccurrence


def code(tokens, d_sae, seed=0, share=0.2):
    on = torch.rand(tokens, d_sae, generator=torch.Generator().manual_seed(seed)) < share
    on[:, 1] = on[:, 0]  # planted: these two always fire together
    at, features = on.nonzero().unbind(1)
    return on.double(), features, torch.rand(len(at), generator=torch.Generator().manual_seed(1)), at


def feed(cooccurrence, features, values, at, tokens, size=16):
    for start in range(0, tokens, size):
        inside = (at >= start) & (at < start + size)
        cooccurrence.update(features[inside], values[inside], at[inside] - start, min(size, tokens - start))


@pytest.mark.parametrize("path", ["product", "pairs", "frequent"])
def test_the_three_ways_of_counting_agree(path, monkeypatch):
    on, features, values, at = code(100, 30)
    if path != "product":
        monkeypatch.setattr(module, "_NARROW", 0)
        monkeypatch.setattr(module, "_PAIRS", 50)  # several pieces a block
    if path == "frequent":
        monkeypatch.setattr(module, "EXACT_BYTES", 0)
    cooccurrence = Cooccurrence(30, slots=29)
    feed(cooccurrence, features, values, at, 100)
    wanted = (on.T @ on).fill_diagonal_(0)
    ids, counts = cooccurrence.partners(100, block=7)
    for f in range(30):
        got = {g: n for g, n in zip(ids[f].tolist(), counts[f].tolist(), strict=True) if g >= 0}
        assert got == {g: int(n) for g, n in enumerate(wanted[f].tolist()) if n}
    assert ids[0, 0] == 1 and ids[1, 0] == 0
    assert cooccurrence.active.tolist() == on.sum(0).long().tolist()
    r = torch.corrcoef(on.T)
    scores = module.phi(wanted[2], cooccurrence.active[2], cooccurrence.active, 100)
    assert torch.allclose(scores[3:], r[2, 3:], atol=1e-9)
    assert ids[2].tolist() == [g for g in ids[2].tolist() if g >= 0] + [-1] * ids[2].tolist().count(-1)
    order = scores[ids[2][ids[2] >= 0].long()]
    assert torch.equal(order, order.sort(descending=True).values)


def test_only_the_strongest_features_of_a_token_are_paired(monkeypatch):
    monkeypatch.setattr(module, "_NARROW", 0)
    monkeypatch.setattr(module, "STRONGEST", 2)
    cooccurrence = Cooccurrence(5, slots=4)
    values = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0])
    cooccurrence.update(torch.tensor([0, 1, 2, 3, 4]), values, torch.tensor([0, 0, 0, 1, 1]), 2)
    assert cooccurrence.active.tolist() == [0, 1, 1, 1, 1]
    assert cooccurrence.pairs[1].tolist() == [0, 0, 1, 0, 0] and cooccurrence.pairs[3].tolist() == [0, 0, 0, 0, 1]


def test_phi_of_a_feature_that_always_fires_is_zero():
    assert float(module.phi(torch.tensor(5), torch.tensor(10), torch.tensor(5), 10)) == 0.0
