"""Examples in context: which text, which activations, and how they are shown."""

import numpy as np
import torch

from monosem.analysis.index import build_index
from monosem.analysis.inputs import Subject
from monosem.analysis.windows import is_right_to_left, show, trim, windows


def test_windows_show_the_feature_on_every_token(model, exact, rows, hook):
    index = build_index(Subject(exact, model, hook), rows, progress=False)
    wanted = [(f, e) for f in range(12) for e in index.top(f, 2)]
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
