"""Measures of recovery on dictionaries made by hand: perfect, split, absorbing, blind."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

import monosem as ms
from monosem.analysis import matching
from monosem.analysis.matching import match, mean_correlation
from monosem.analysis.recovery import recovery
from monosem.data.forest import Hierarchy
from monosem.data.planted import PlantedDictionary
from monosem.ops import SparseCode

D, TRUE, TREES = 64, 40, 5
SOURCE = PlantedDictionary(D, TRUE, 4.0, hierarchy=Hierarchy(TREES, 3, 1, 0.6), batch_size=2000)
# Orthogonal directions, so that a dictionary that reads along its rows sees the true values.
FEATURES = torch.linalg.qr(SOURCE.features.T).Q.T.contiguous()
HELD_OUT = [(code.to_dense() @ FEATURES, code) for _, code in SOURCE.held_out(2)]


@dataclass
class ByHand:
    """Latents with decoder rows W_dec that read the true code: latent l has ``reader(dense code)[:, l]``."""

    W_dec: torch.Tensor
    reader: object
    codes: list = field(default_factory=lambda: [code for _, code in HELD_OUT])

    @property
    def cfg(self):
        return SimpleNamespace(d_in=D, d_sae=len(self.W_dec))

    def encode(self, x: torch.Tensor) -> SparseCode:
        (truth,) = (code for other, code in HELD_OUT if other is x)
        values = self.reader(truth.to_dense())
        token, latent = values.nonzero(as_tuple=True)
        offsets = torch.nn.functional.pad((values != 0).sum(1).cumsum(0), (1, 0))
        return SparseCode(values[token, latent], latent.int(), offsets, len(self.W_dec), torch.Size([len(x)]))

    def decode(self, code: SparseCode) -> torch.Tensor:
        return code.to_dense() @ self.W_dec


def measure(rows, reader):
    return recovery(ByHand(rows, reader), FEATURES, HELD_OUT, SOURCE.parents, SOURCE.depths)


def test_a_perfect_dictionary():
    order = torch.randperm(TRUE, generator=torch.Generator().manual_seed(0))
    found = measure(FEATURES[order] * 2, lambda dense: dense[:, order] / 2)
    assert (found.tokens, found.recovered, found.dead) == (4000, TRUE, 0)
    for figure in ("mean_max_cosine", "mcc", "explained_variance", "uniqueness", "precision", "recall", "f1"):
        assert getattr(found, figure) == pytest.approx(1, abs=1e-6), figure
    assert found.recovered_by_depth == (1, 1) and found.l0 == found.true_l0
    assert (found.absorption, found.parents_found, found.parent_recall, found.parent_recall_alone) == (0, 1, 1, 1)
    assert json.loads(json.dumps(found.to_dict()))["f1"] == found.f1


def absorbing(dense):
    """The parent's latent has holes where a child is active; the child's latent holds both."""
    parents, children = dense[:, :TREES], dense[:, TREES : 4 * TREES]
    has_child = (children.view(-1, TREES, 3) > 0).any(2)
    parent_of_child = parents.repeat_interleave(3, 1)
    both = torch.where(children > 0, (parent_of_child + children) / 2**0.5, 0)
    return torch.cat([torch.where(has_child, 0, parents), both, dense[:, 4 * TREES :]], 1)


def absorbing_rows():
    children = torch.arange(TREES, 4 * TREES)
    rows = FEATURES.clone()
    rows[children] = (FEATURES[children] + FEATURES[SOURCE.parents[children]]) / 2**0.5
    return rows


def test_a_parent_that_is_absorbed_by_its_children():
    found = measure(absorbing_rows(), absorbing)
    assert (found.absorption, found.parents_found) == (1, 1)
    assert (found.parent_recall, found.parent_recall_alone) == (0, 1)
    assert found.recovered_by_depth == (1, 0)
    assert found.l0 < found.true_l0


def test_a_parent_without_a_latent_of_its_own_is_absorbed_too():
    rows = absorbing_rows()[TREES:]
    found = measure(rows, lambda dense: absorbing(dense)[:, TREES:])
    assert (found.absorption, found.parents_found, found.parent_recall, found.parent_recall_alone) == (1, 0, 0, 0)


def test_half_of_the_children_absorb():
    """Absorption is a share of tokens: a child with a clean latent leaves its parent's active."""
    rows = FEATURES.clone()
    children = torch.arange(TREES, 4 * TREES)
    clean = children % 3 == 0  # one of three children of each parent
    rows[children[~clean]] = absorbing_rows()[children[~clean]]

    def reader(dense):
        values = absorbing(dense)
        values[:, children[clean]] = dense[:, children[clean]]
        with_clean = (dense[:, children[clean]] > 0) & (dense[:, :TREES] > 0)
        values[:, :TREES] = torch.where(with_clean, dense[:, :TREES], values[:, :TREES])
        return values

    found = measure(rows, reader)
    dense = torch.cat([code.to_dense() for _, code in HELD_OUT])[:, TREES : 4 * TREES].view(-1, TREES, 3)
    pairs = (dense > 0).sum(0).double()
    absorbed = pairs[~clean.view(TREES, 3)].view(TREES, 2).sum(1)
    assert found.absorption == pytest.approx(float((absorbed / pairs.sum(1)).mean()))
    assert found.parent_recall == pytest.approx(1 - found.absorption)


def test_a_silent_parent_that_nothing_carries_is_not_absorbed():
    """A parent's latent that fails for another reason, or a child's latent that carries too little of the parent."""
    found = measure(FEATURES, lambda dense: torch.where(torch.arange(TRUE) < TREES, 0, dense))
    assert (found.absorption, found.parent_recall, found.dead) == (0, 0, TREES)
    weak = measure(absorbing_rows(), lambda dense: absorbing(dense) * 0.3)
    assert weak.absorption == 0 and weak.parent_recall == 0


def test_an_entry_below_0_is_active_and_detects_nothing():
    """Half of the latents are turned: their rows are the opposite of a feature, and their values below 0."""
    signs = torch.where(torch.arange(TRUE) % 2 == 0, 1.0, -1.0)
    found = measure(FEATURES * signs[:, None], lambda dense: dense * signs)
    assert found.l0 == found.true_l0 and found.dead == 0
    assert found.explained_variance == pytest.approx(1, abs=1e-6) and found.recovered == TRUE // 2
    assert found.precision == pytest.approx(1) and found.recall == pytest.approx(1)  # of the latents above 0


def test_split_features():
    """Two latents share the tokens of each feature: every one is precise, none is complete, half are unique."""

    def reader(dense):
        even = (torch.arange(len(dense)) % 2 == 0)[:, None]
        return torch.cat([torch.where(even, dense, 0), torch.where(even, 0, dense)], 1)

    found = measure(FEATURES.repeat(2, 1), reader)
    assert found.uniqueness == pytest.approx(0.5) and found.precision == pytest.approx(1)
    assert found.recall == pytest.approx(0.5, abs=0.02) and found.recovered == TRUE
    assert found.mcc == pytest.approx(1) and found.explained_variance == pytest.approx(1)


def test_a_random_dictionary_finds_little():
    rows = torch.nn.functional.normalize(torch.randn(30, D, generator=torch.Generator().manual_seed(1)), dim=1)
    found = measure(rows, lambda dense: torch.ones(len(dense), 30))
    assert found.recovered == 0 and found.mean_max_cosine < 0.4 and found.mcc < 0.4
    assert found.recall == 1 and found.precision < 0.3 and found.parents_found < 0.5


def test_an_autoencoder_is_measured():
    source = PlantedDictionary(D, TRUE, 4.0, batch_size=256)
    sae = ms.TopKSAE(D, 32, k=4, seed=0)
    found = recovery(sae, source.features, source.held_out(2), source.parents, source.depths)
    assert found.l0 <= 4 and found.tokens == 512
    assert found.absorption is None and found.parents_found is None and len(found.recovered_by_depth) == 1


def test_matching_in_blocks(monkeypatch):
    """The same as the whole matrix, whatever the block; ties go to the lowest number."""
    learned = torch.randn(37, D, generator=torch.Generator().manual_seed(2))
    learned[20] = learned[3]
    cosine = torch.nn.functional.normalize(learned, dim=1) @ SOURCE.features.T
    monkeypatch.setattr(matching, "_BLOCK", 5 * TRUE)
    found = match(learned, SOURCE.features)
    assert torch.equal(found.feature, cosine.argmax(1)) and torch.equal(found.latent, cosine.argmax(0))
    torch.testing.assert_close(found.best, cosine.amax(0))
    torch.testing.assert_close(found.cosine, cosine.amax(1))
    mutual = found.mutual(0.0)
    chosen = mutual[mutual >= 0]
    assert len(chosen) == len(chosen.unique()) and (found.feature[chosen] == (mutual >= 0).nonzero()[:, 0]).all()
    assert (found.mutual(1.0) == -1).all()


def test_one_to_one_correlation():
    assert mean_correlation(-FEATURES[:7], FEATURES) == pytest.approx(1)  # the sign is free, as in the source
    rows = torch.stack([FEATURES[0], FEATURES[0], FEATURES[1]])
    assert mean_correlation(rows, FEATURES[:3]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match(torch.zeros(2, 3), torch.zeros(2, 4)), r"learned, true: got \[2, 3\] and \[2, 4\]"),
        (lambda: match(torch.zeros(0, 3), torch.zeros(2, 3)), "not empty"),
        (lambda: mean_correlation(torch.zeros(1 << 14, 1), torch.zeros((1 << 13) + 1, 1)), "at most 134,217,728 pairs"),
        (lambda: recovery(ByHand(FEATURES, None), FEATURES, [], SOURCE.parents, SOURCE.depths), "held_out: got no"),
        (
            lambda: recovery(ByHand(FEATURES, None), FEATURES, HELD_OUT, SOURCE.parents[1:], SOURCE.depths),
            r"parents: got shape \[39\]; wanted \[40\]",
        ),
        (
            lambda: recovery(ByHand(FEATURES, None), FEATURES[1:], HELD_OUT, SOURCE.parents[1:], SOURCE.depths[1:]),
            "held_out: got codes of 40 features; wanted 39",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
