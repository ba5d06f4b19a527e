"""A planted split is found; masked cosines equal their definition."""

import json

import numpy as np
import pytest
import torch
from chain_model import HOOK, LETTERS, ChainModel, chain_rows

import monosem as ms
from monosem.analysis.evidence import arrangement, feature_map, split, split_features, split_page
from monosem.analysis.evidence.section import render_page
from monosem.analysis.inputs import Subject

D = len(LETTERS)


def groups_sae(*groups: str) -> ms.ReLUSAE:
    """Feature i fires, at 1, on the letters of group i; its direction is their mean direction."""
    sae = ms.ReLUSAE(D, len(groups))
    sums = torch.tensor([[float(letter in group) for letter in LETTERS] for group in groups])
    with torch.no_grad():
        sae.W_enc_rows.copy_(sums)
        sae.W_dec.copy_(sums / sums.norm(dim=1, keepdim=True))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


def row(*dictionaries, model=None):
    model = model or ChainModel()
    return [Subject(groups_sae(*groups), model, HOOK) for groups in dictionaries]


# 'abcdefgh' is text of the label Arabic (source ar_low), 'ijklmnop' of another.
ONE = ("abcd", "efgh", "ijklmnop")
TWO = ("ab", "cd", "gh", "ij", "kl", "mnop")
THREE = ("a", "b", "cd", "gh", "i", "j", "k", "l", "mn", "op")


@pytest.fixture(scope="module")
def result():
    return split.measure(row(ONE, TWO, THREE), chain_rows(), label="Arabic", min_tokens=3, umap=False)


def test_a_planted_split_is_found(result):
    assert [(n["level"], n["feature"]) for n in result.nodes] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert result.family == result.joined == (1, 2, 3)
    assert {(k["level"], k["parent"], k["child"]) for k in result.links} == {
        (0, 0, 0),
        (0, 0, 1),
        (1, 0, 0),
        (1, 0, 1),
        (1, 1, 2),
    }
    assert all(k["masked"] == pytest.approx(1) for k in result.links)  # a child does on its tokens what the parent does
    assert result.links[0]["decoder"] == pytest.approx(2 / np.sqrt(8))
    first, second = result.steps
    assert first.children[:4] == (0, 1, 1, 1) and second.children[:3] == (0, 2, 4)  # efgh → gh; ijklmnop → ij, kl, mnop
    assert first.orphans == second.orphans == 0 and first.agreed == 1.0
    assert [level.label_features for level in result.levels] == [2, 3, 4]
    listed = [[n for n in result.listed if n["level"] == i] for i in range(3)]
    assert [{n["feature"] for n in level} for level in listed] == [{0, 1}, {0, 1, 2}, {0, 1, 2, 3}]
    assert all([n["tokens"] for n in level] == sorted((n["tokens"] for n in level), reverse=True) for level in listed)
    assert all(n["precision"] == 1.0 and n["words"] for n in result.listed) and result.unlisted == (0, 0, 0)
    assert sum(n["recall"] for n in listed[0]) == pytest.approx(1.0)
    root = result.nodes[0]
    assert root["precision"] == 1 and root["source"] == "ar_low"
    assert sorted(w for w, _ in root["words"]) == list("abcd") and root["raised"][0][0] in "bcde"
    assert all("".join(p["text"] for p in e["pieces"]).lstrip("_") in "abcdefgh" * 4 for e in root["examples"])


def test_features_that_the_chosen_rows_lack_are_shown_where_they_are_strongest(monkeypatch):
    monkeypatch.setattr(split_features, "_ROWS", 0)
    result = split.measure(row(ONE, TWO, THREE), chain_rows(), label="Arabic", min_tokens=3, umap=False)
    assert all(n["words"] and n["examples"] for n in (*result.nodes, *result.listed))


def test_the_family_begins_at_the_given_feature_and_is_limited():
    result = split.measure(row(ONE, TWO, THREE), chain_rows(), feature=2, min_tokens=3, max_children=2, umap=False)
    assert result.family == (1, 2, 2) and result.omitted == 3 and result.label == ""
    assert "begun from #2; 3 more are left out" in result.table()


def test_the_features_of_a_label_are_listed_up_to_a_limit(result):
    few = split.measure(
        row(ONE, TWO, THREE), chain_rows(), label="Arabic", min_tokens=3, max_listed=1, max_children=1, umap=False
    )
    assert few.unlisted == (1, 2, 3)
    assert [n["feature"] for n in few.listed] == [
        next(n["feature"] for n in result.listed if n["level"] == level) for level in range(3)
    ]
    page = split_page.section(json.loads(json.dumps(few.to_dict()))).body
    assert "Every feature that fires mostly on Arabic" in page and "4 of 10 features" in page
    assert "3 more, which fire less, are not listed" in page
    unlabelled = split.measure(row(ONE, TWO), chain_rows(), feature=2, min_tokens=3, umap=False)
    assert unlabelled.listed == () and "fires mostly on" not in split_page.section(unlabelled.to_dict()).body


@pytest.mark.parametrize("memory", [1 << 30, 2000])  # in memory, and block by block through the disk
def test_masked_cosines_agree_with_their_definition(memory, tmp_path):
    class Noisy(ChainModel):
        def _forward(self, tokens, hooks):
            g = torch.Generator().manual_seed(int(tokens.sum()))
            hooks[HOOK](torch.rand(*tokens.shape, D, generator=g) * 2 - 1)

    subjects = [Subject(ms.TopKSAE(D, f, k=4, seed=f), Noisy(), HOOK) for f in (12, 20)]
    rows = chain_rows()
    result = split.measure(
        subjects, rows, feature=3, min_tokens=5, threshold=0.5, umap=False, contexts=4, memory=memory, folder=tmp_path
    )
    x = torch.cat([subjects[0].model.activations(torch.from_numpy(rows.tokens[i : i + 4]), HOOK) for i in (0, 4, 8)])
    with torch.no_grad():
        f, g = (s.sae.encode(x[:, 1:]).to_dense().flatten(0, 1).double().numpy() for s in subjects)
    wanted = {}
    for i in range(12):
        for j in range(20):
            a, b = f[:, i], g[:, j]
            if (a > 0).sum() >= 5 and (b > 0).sum() >= 5:
                cosines = []
                for mask in (a > 0, b > 0):
                    norms = np.linalg.norm(a[mask]) * np.linalg.norm(b[mask])
                    cosines.append(a[mask] @ b[mask] / norms if norms else 0)
                if max(cosines) > 0.5:
                    wanted[i, j] = max(cosines)
    (e,) = result.edges
    got = dict(zip(zip(e.parent.tolist(), e.child.tolist(), strict=True), e.masked.tolist(), strict=True))
    assert got.keys() == wanted.keys() and len(got) > 20
    np.testing.assert_allclose([got[k] for k in wanted], list(wanted.values()), rtol=1e-6)
    w = [s.sae.W_dec.detach().double() for s in subjects]
    np.testing.assert_allclose(e.decoder, (w[0][e.parent] * w[1][e.child]).sum(1), rtol=1e-5)
    nearest = (w[1] @ w[0].T).argmax(1)  # every feature of the first fires often enough
    best = {j: max((i for i, k in wanted if k == j), key=lambda i: wanted[i, j]) for _, j in wanted}
    assert result.steps[0].agreed == pytest.approx(np.mean([int(nearest[j]) == i for j, i in best.items()]))
    heirs = [j for j, i in best.items() if i == 3]
    assert sorted(n["feature"] for n in result.nodes if n["level"] == 1) == sorted(heirs)
    assert result.joined == (1, sum(i == 3 for i, _ in wanted))
    parents = np.bincount(list(best.values()), minlength=12)
    assert result.steps[0].children == tuple(np.bincount(np.minimum(parents, 8), minlength=9))
    assert list(tmp_path.iterdir()) == []


def test_the_section_shows_graph_table_and_map(result, monkeypatch):
    monkeypatch.setattr(
        feature_map,
        "arrange",
        lambda d, n: arrangement.Arrangement(
            np.linspace(0, 1, 2 * len(d)).reshape(-1, 2), np.arange(len(d)) % 4 - 1, np.arange(len(d))[::-1]
        ),
    )
    with_map = split.measure(row(ONE, TWO, THREE), chain_rows(), label="Arabic", min_tokens=3)
    m = with_map.map
    assert len(m["x"]) == len(m["raised"]) == 19 and m["y"][-1] == 10_000 and m["edges_left_out"] == 0
    assert m["cluster"][:5] == [-1, 0, 1, 2, -1] and m["order"] == list(range(18, -1, -1))
    assert {tuple(e[:2]) for e in m["edges"] if e[0] == 0} == {(0, 3), (0, 4)} and m["family"] == [0, 3, 4, 9, 10, 11]
    record = json.loads(json.dumps(with_map.to_dict(), allow_nan=False))
    section = split_page.section(record)
    assert section.findings[0].ours == "1 → 2 → 3" and section.findings[1].ours == "2 → 3 → 4"
    # Of 19 dots 14 are in one of three clusters, each with members of at least two dictionaries.
    assert (
        section.findings[-1].ours
        == "3 clusters hold 74% of 19 features; 3 of them hold features of several dictionaries"
    )
    page = render_page("Splitting", [section])
    assert 'id="map-data"' in page and page.count("<circle") >= 6 and "getElementById('map')" in page
    assert "mostly Arabic" in result.table()
    without = render_page("Splitting", [split_page.section(json.loads(json.dumps(result.to_dict())))])
    assert "map-data" not in without


def test_missing_umap_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(arrangement.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        split.measure(row(ONE, TWO), chain_rows(), label="Arabic", min_tokens=3)


def test_dictionaries_that_do_not_belong_together_are_refused():
    rows = chain_rows()
    with pytest.raises(ValueError, match="subjects: got 1 dictionaries"):
        split.measure(row(ONE), rows)
    with pytest.raises(ValueError, match="got widths 6, 3; wanted the smallest first"):
        split.measure(row(TWO, ONE), rows, label="Arabic", umap=False)
    with pytest.raises(ValueError, match="label: no text for 'DNA'; this text has Arabic"):
        split.measure(row(ONE, TWO), rows, label="DNA", umap=False)
    with pytest.raises(ValueError, match="feature: got 3; wanted 0 to 2"):
        split.measure(row(ONE, TWO), rows, feature=3, umap=False)
    other = ChainModel()
    other.name = "other"
    with pytest.raises(ValueError, match="one hook of one model"):
        split.measure([*row(ONE), *row(TWO, model=other)], rows, umap=False)
