"""The feature index against a sort of everything."""

import numpy as np
import pytest
import torch

from monosem.analysis.index import FeatureIndex, Histogram, TopEntries
from monosem.analysis.scan import blocks
from monosem.analysis.windows import is_right_to_left, show, trim, windows


def test_top_entries_are_those_of_a_full_sort():
    generator = torch.Generator().manual_seed(0)
    top = TopEntries(7, 5)
    features = torch.randint(0, 6, (400,), generator=generator)  # feature 6 never comes
    keys = torch.randint(0, 60, (400,), generator=generator).float()  # with ties
    places = torch.arange(400)
    for part in torch.randperm(400, generator=generator).sort().values.split(37):
        top.update(features[part], keys[part], keys[part] * 2, places[part])
    for feature in range(6):
        mine = places[features == feature]
        wanted = mine[torch.argsort(keys[mine], descending=True, stable=True)][:5]
        assert top.places[feature].tolist() == wanted.tolist()
        assert top.values[feature].tolist() == (keys[wanted] * 2).tolist()
    assert top.places[6].tolist() == [-1] * 5


def test_histogram_is_exact_while_it_grows():
    generator = torch.Generator().manual_seed(1)
    histogram = Histogram(3, 2, bins=8)
    values = torch.rand(600, generator=generator) * torch.linspace(0.1, 9, 600)
    features, source = torch.arange(600) % 2, torch.arange(600) // 2 % 2
    for part in torch.arange(600).split(50):
        histogram.update(features[part], values[part], source[part])
    for feature in range(2):
        upper = float(histogram.upper[feature])
        assert values[features == feature].max() <= upper
        for s in range(2):
            mine = values[(features == feature) & (source == s)].numpy()
            wanted = np.histogram(mine, np.linspace(0, upper, 9))[0]
            assert histogram.counts[feature, s].tolist() == wanted.tolist()
    assert histogram.counts[2].sum() == 0
    with pytest.raises(ValueError, match="even number"):
        Histogram(3, 2, bins=7)


def test_index_of_known_activations(model, exact, rows, hook):
    index = FeatureIndex(exact.cfg.d_sae, rows.sources, 12, top=4, sample=500)
    for block in blocks(exact, model, hook, rows, contexts=3):
        index.update(block)
    f = exact.encode(model.E[torch.from_numpy(rows.tokens.astype(np.int64))]).to_dense().detach()
    f[:, 0] = 0
    assert index.tokens == 110
    assert index.counts.tolist() == (f > 0).sum((0, 1)).tolist()
    for feature in range(exact.cfg.d_sae):
        mine = f[..., feature]
        assert float(index.maximum[feature]) == float(mine.max())
        got = index.top_examples(feature)
        best_of_rows = mine.max(1).values.sort(descending=True).values
        assert [e.value for e in got] == [v for v in best_of_rows[:4].tolist() if v > 0]
        assert len({e.row for e in got}) == len(got)
        assert all(float(mine[e.row, e.position]) == e.value for e in got)
        drawn = [e for _, _, es in index.interval_examples(feature, intervals=3, each=999) for e in es]
        assert sorted(e.value for e in drawn) == sorted(mine[mine > 0].tolist())
        for low, high, es in index.interval_examples(feature, intervals=3):
            assert all(low < e.value <= high or e.value == index.maximum[feature] for e in es)
        upper, present, counts = index.activation_histogram(feature)
        assert int(counts.sum()) == int((mine > 0).sum()) and upper >= float(mine.max())
        assert all(counts.sum(1) > 0) if present else counts.numel() == 0


def test_windows_show_the_feature_on_every_token(model, exact, rows, hook):
    index = FeatureIndex(exact.cfg.d_sae, rows.sources, 12)
    for block in blocks(exact, model, hook, rows):
        index.update(block)
    wanted = [(f, e) for f in range(12) for e in index.top_examples(f)[:2]]
    got = windows(exact, model, hook, rows, wanted, before=3, after=2, contexts=2)
    assert len(got) == len(wanted)
    for (feature, example), window in zip(wanted, got, strict=True):
        first = max(0, example.position - 3)
        ids = rows.tokens[example.row, first : example.position + 3]
        values = exact.encode(model.E[torch.from_numpy(ids.astype(np.int64))]).to_dense()[:, feature].tolist()
        values[0] = 0.0 if first == 0 else values[0]
        pairs = [pair for piece in window.pieces for pair in piece.tokens]
        assert pairs == [(model.token_str(i), v) for i, v in zip(ids, values, strict=True)]
        assert sum(p.focus for p in window.pieces) == 1
        assert window.source == rows.sources[example.row % 3]


def test_tokens_of_one_character_are_joined(model):
    pieces = show(model, [6, 4, 5, 4, 1, 0], [0.0, 1.0, 3.0, 2.0, 0.0, 0.0], focus=2)
    assert [p.text for p in pieces] == ["مر", "ا", "⟨D8⟩", " the", "<|bos|>"]
    assert [p.value for p in pieces] == [0.0, 3.0, 2.0, 0.0, 0.0]
    assert [p.focus for p in pieces] == [False, True, False, False, False]
    assert pieces[1].tokens == (("⟨D8⟩", 1.0), ("⟨A7⟩", 3.0))


def test_trim_counts_characters(model):
    pieces = show(model, [1, 1, 11, 12, 1], [0.0] * 5, focus=2)
    assert "".join(p.text for p in trim(pieces, (4, 1))) == " thexy"


def test_direction():
    assert (
        is_right_to_left("مر a")
        and is_right_to_left("שלום")
        and not is_right_to_left("hello שם")
        and not is_right_to_left("12 ")
    )
