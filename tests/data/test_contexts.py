"""Contexts from text and from arrays, run through a tiny real model with the same bits each time."""

import json

import numpy as np
import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

from monosem.data.contexts import load_contexts
from monosem.data.harvest import ActivationStream, harvest
from monosem.data.store import ActivationStore
from monosem.data.token_rows import pack_rows


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    lines = [json.dumps({"source": d.source, "text": d.text}, ensure_ascii=False) for d in tiny_documents()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_text_is_split_by_document(model, text):
    documents = tiny_documents()
    everything = load_contexts(model, text, split="all")
    assert np.array_equal(everything, pack_rows(documents, model).tokens)
    train, held = (load_contexts(model, text, split=split) for split in ("train", "held_out"))
    assert 0 < len(held) < len(train) < len(everything)


def test_arrays(model, tmp_path):
    tokens = np.arange(200, dtype=np.uint16).reshape(10, 20)
    np.save(tmp_path / "tokens.npy", tokens)
    assert np.array_equal(load_contexts(model, tokens=tmp_path / "tokens.npy"), tokens)
    assert np.array_equal(load_contexts(model, tokens=tmp_path / "tokens.npy", contexts=4), tokens[[0, 2, 5, 7]])
    assert np.array_equal(load_contexts(model, tokens=tmp_path / "tokens.npy", contexts=99), tokens)
    np.save(tmp_path / "flat.npy", np.arange(75, dtype=np.uint16))
    flat = load_contexts(model, tokens=tmp_path / "flat.npy", context=10)
    assert np.array_equal(flat, np.arange(70).reshape(7, 10)) and isinstance(flat, np.memmap)
    assert load_contexts(model, tokens=tmp_path / "flat.npy").shape == (2, 32)
    with pytest.raises(ValueError, match="context: got 33; wanted 1 to 32 tokens, as 'tiny' reads no more"):
        load_contexts(model, tokens=tmp_path / "flat.npy", context=33)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"tokens": "nowhere.npy"}, FileNotFoundError, r"no file 'nowhere.npy'; wanted a whole .npy array"),
        ({"text": "nowhere.jsonl"}, FileNotFoundError, r"no file 'nowhere.jsonl'"),
        ({"split": "test"}, ValueError, "split: got 'test'; wanted 'train', 'held_out' or 'all'"),
        ({"contexts": 0, "split": "all"}, ValueError, "contexts: got 0; wanted at least 1"),
    ],
)
def test_missing_inputs_are_refused(model, text, options, error, message):
    with pytest.raises(error, match=message):
        load_contexts(model, **{"text": text} | options)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "holds no document"),
        (b'{"text": "\xff"}', "is not UTF-8"),
        (b'{"txt": "a"}', "no string field 'text'"),
        (b'{"text": "short"}', "wanted at least"),
    ],
)
def test_bad_text(model, tmp_path, content, message):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_contexts(model, str(tmp_path / "bad.jsonl"), split="all")


def test_bad_arrays(model, tmp_path):
    path = tmp_path / "bad.npy"
    np.save(path, np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"tokens: got float64 \[3, 5\]; wanted integers"):
        load_contexts(model, tokens=path)
    np.save(path, np.full((3, 5), 300))
    with pytest.raises(ValueError, match="ids 300 to 300; 'tiny' knows 0 to 299"):
        load_contexts(model, tokens=path)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(ValueError, match=r"tokens: .*wanted a whole \.npy array"):
        load_contexts(model, tokens=path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"tokens: .*wanted a whole \.npy array"):
        load_contexts(model, tokens=path)


def test_a_real_model_resumes_bitwise(model, text):
    rows = pack_rows(tiny_documents(), model)

    def stream():
        return ActivationStream(model, HOOK, rows, batch_size=100, epochs=2, buffer_contexts=17, forward_contexts=5)

    whole, running = list(stream()), stream()
    assert running.d_in == 32
    for done, _ in enumerate(running, 1):
        resumed = stream()
        resumed.load_state_dict(running.state_dict())
        assert all(map(torch.equal, resumed, whole[done:]))


def test_stream_and_store_hold_the_same(model, tmp_path):
    rows = pack_rows(tiny_documents(), model)
    store = harvest(model, HOOK, rows, tmp_path, "fp32", progress=False)
    streamed = torch.cat(list(ActivationStream(model, HOOK, rows, epochs=1)))
    stored = torch.cat(list(ActivationStore(tmp_path)))
    expected = store.read(range(store.n_stored))[0]
    for got in (streamed, stored):
        order, expected_order = (torch.from_numpy(np.lexsort(x.numpy().T)) for x in (got, expected))
        torch.testing.assert_close(got[order], expected[expected_order], atol=1e-5, rtol=1e-5)
