"""The byte-level BPE: any string comes back, rows hold every token once."""

import numpy as np
import pytest
from tiny import TEXTS, tiny_documents, tiny_model
from tokenizers import Tokenizer

from monosem.data.native import NativeModel
from monosem.data.text import Document
from monosem.data.tokenizer import BOS, BOS_ID, encode_documents, load_tokenizer, pack_contexts, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_model().tokenizer


def test_any_string_round_trips(tokenizer):
    for text in [*TEXTS.values(), "", " ", "\x00\x7f\r\n\t", "Ж漢字🙂", "e\u0301", "\ufeff", "שָׁלוֹם", "ﷺ", "\U0010ffff"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_size_and_special_token(tokenizer):
    assert tokenizer.get_vocab_size() == 300 and tokenizer.token_to_id(BOS) == BOS_ID
    with pytest.raises(ValueError, match="vocab_size: got 256; wanted at least 257"):
        train_tokenizer(["a"], 256)


def test_training_is_deterministic(tokenizer):
    assert train_tokenizer((d.text for d in tiny_documents()), 300).to_str() == tokenizer.to_str()


def test_the_given_tokenizer_is_not_changed():
    """A model reads a spelled special token as letters; its caller's tokenizer does what the caller set."""
    model = tiny_model()
    mine = Tokenizer.from_str(model.tokenizer.to_str())
    mine.encode_special_tokens = False
    model_ = NativeModel(model.module, mine)
    assert model_.encode_batch([BOS])[0] != [BOS_ID] and mine.encode(BOS).ids == [BOS_ID]
    assert mine.encode_special_tokens is False


def test_documents_begin_with_bos(tokenizer):
    documents = tiny_documents()
    encoded = list(encode_documents(tokenizer, documents))
    for document, ids in zip(documents, encoded, strict=True):
        assert ids.dtype == np.int32 and ids[0] == BOS_ID and tokenizer.decode(ids[1:].tolist()) == document.text
    assert next(encode_documents(tokenizer, [Document("x", "")])).tolist() == [BOS_ID]


def test_rows_hold_every_token_once():
    tokens = [np.arange(1, 8, dtype=np.int32), np.arange(8, 20, dtype=np.int32)]
    blocks = list(pack_contexts(iter(tokens), 6, np.uint16))
    assert [b.shape for b in blocks] == [(1, 7), (2, 7)] and all(b.dtype == np.uint16 for b in blocks)
    rows = np.concatenate(blocks)
    assert rows.shape == (3, 7) and (rows[:, 0] == BOS_ID).all()
    assert rows[:, 1:].flatten().tolist() == list(range(1, 19))  # 19 is of a row that is not full
    assert not list(pack_contexts([], 6)) and not list(pack_contexts(tokens[:1], 8))


def test_loading(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    assert load_tokenizer(tmp_path / "tokenizer.json").to_str() == tokenizer.to_str()
    with pytest.raises(FileNotFoundError, match=r"wanted a tokenizer.json"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer: .*bad.json' is not a tokenizer"):
        load_tokenizer(tmp_path / "bad.json")
