"""Examples in context: which text, which activations, and how they are shown."""

from types import SimpleNamespace

import numpy as np
import torch

import monosem as ms
import monosem.analysis.windows as windows_module
from monosem.analysis.index import Example, build_index
from monosem.analysis.inputs import Subject
from monosem.analysis.windows import TextCache, is_right_to_left, lay_out, show, trim, windows, windows_of


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


def test_windows_are_read_from_stored_activations(model, exact, rows, hook, tmp_path, monkeypatch):
    """From stored activations the same windows; rows that the index did not read are computed."""
    subject = Subject(exact, model, hook)
    whole = build_index(subject, rows, progress=False)
    wanted = [(f, e) for f in range(12) for e in whole.top(f, 3)]
    length = rows.tokens.shape[1]
    half = build_index(subject, rows, tmp_path / "half", tokens=len(rows.tokens) * length // 2, progress=False)
    read = set(half.stored_rows.tolist())
    assert 0 < len(read) < len(rows.tokens) and not len(whole.stored_rows)
    calls = []
    monkeypatch.setattr(windows_module, "windows", lambda *a, **k: calls.append(a[4]) or windows(*a, **k))
    got = windows_of(subject, half, wanted, before=3, after=2)
    assert [e.row in read for _, e in calls[0]] == [False] * len(calls[0]) and len(calls[0]) < len(wanted)
    for mine, computed in zip(got, windows(exact, model, hook, rows, wanted, before=3, after=2), strict=True):
        assert (mine.text, mine.row, mine.position, mine.source) == (
            computed.text,
            computed.row,
            computed.position,
            computed.source,
        )
        assert np.allclose([p.value for p in mine.pieces], [p.value for p in computed.pieces], atol=1e-6)
        assert [p.focus for p in mine.pieces] == [p.focus for p in computed.pieces]


def test_tokens_of_one_character_are_joined(model):
    pieces = show(model, [6, 4, 5, 4, 1, 0], [0.0, 1.0, 3.0, 2.0, 0.0, 0.0], focus=2)
    assert [p.text for p in pieces] == ["مر", "ا", "⟨D8⟩", " the", "<|bos|>"]
    assert [p.value for p in pieces] == [0.0, 3.0, 2.0, 0.0, 0.0]
    assert [p.focus for p in pieces] == [False, True, False, False, False]
    assert pieces[1].tokens == (("⟨D8⟩", 1.0), ("⟨A7⟩", 3.0))


def test_trim_counts_characters(model):
    pieces = show(model, [1, 1, 11, 12, 1], [0.0] * 5, focus=2)
    assert "".join(p.text for p in trim(pieces, (4, 1))) == " thexy"


def test_right_to_left_text_is_recognised():
    assert (
        is_right_to_left("مر a")
        and is_right_to_left("שלום")
        and not is_right_to_left("hello שם")
        and not is_right_to_left("12 ")
    )


def test_windows_from_a_cache_equal_those_from_all_tokens():
    """With a cache only the tokens within reach are laid out: the same window as from all of them."""
    model = ms.load_model("A")
    texts = [
        "ACGTTGACCA " * 9,
        "قال الملك للوزير: انظر إلى البحر 🌊🌊 وقل لي ما ترى فيه",
        "日本語 and 한국어 🧬 mixed " * 4,
        "x = y + 1\n" * 12,
    ]
    draw, cache = np.random.default_rng(0), TextCache(model)
    for text in texts:
        ids = [model.bos_id, *model.encode(text)]
        ids += draw.integers(0, model.d_vocab, 12).tolist()  # and tokens that are parts of characters, anywhere
        rows = SimpleNamespace(
            tokens=np.array([ids]), source=np.zeros((1, len(ids)), dtype=np.int64), sources=["mixed"]
        )
        for _ in range(60):
            first = int(draw.integers(0, len(ids) - 3))
            end = int(draw.integers(first + 2, len(ids) + 1))
            values = np.where(draw.random(end - first) < 0.2, draw.random(end - first), 0.0).tolist()
            example = Example(0, int(draw.integers(first, end)), 1.0)
            reach = (int(draw.integers(0, 30)), int(draw.integers(0, 20)))
            near = lay_out(cache, rows, example, first, values, reach)
            assert near == lay_out(model, rows, example, first, values, reach)
