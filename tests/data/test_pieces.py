"""Long documents are tokenized in pieces to the same ids, all documents one after the other; sources without number."""

import base64
import weakref
from itertools import islice

import numpy as np
import pytest
import torch
from tiny import TEXTS, tiny_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from monosem.data import corpus, pieces
from monosem.data.language_model import LMConfig
from monosem.data.lm_eval import held_out_loss
from monosem.data.text import Document
from monosem.data.token_rows import pack_rows


@pytest.fixture(scope="module")
def model():
    return tiny_model()


class Watched:
    """A model that records its calls of ``encode_batch``."""

    bos_id, n_ctx, name = 0, 32, "watched"

    def __init__(self, encode):
        self.encode, self.longest, self.most = encode, 0, 0

    def encode_batch(self, texts):
        self.longest = max(self.longest, *map(len, texts))
        self.most = max(self.most, sum(map(len, texts)))
        return self.encode(texts)


def mixed(copies: int) -> str:
    """Every script and layout of the tests in one text, with runs of blanks, numbers and marks."""
    parts = [
        *TEXTS.values(),
        "it's  two blanks\n\n\tand 12345 6789 -- 'quoted' x=1;y = 2 ... 3.5e7 ",
        "ελλ ½ a\u00a0b ",
    ]
    return " ".join(p if isinstance(p, str) else " ".join(p) for p in parts) * copies


def joined(text, model, piece):
    parts = list(pieces.cut(text, model, piece))
    assert "".join(parts) == text
    return parts, [i for ids in model.encode_batch(parts) for i in ids]


@pytest.mark.parametrize("piece", [40, 333, 2000])
def test_pieces_give_the_ids_of_the_whole(model, piece):
    text = mixed(12)
    parts, ids = joined(text, model, piece)
    assert len(parts) > len(text) / (20 * piece) + 1 and ids == model.encode(text)


def test_memory_does_not_grow_with_a_document(model):
    text = "the quick brown fox jumps over the lazy dog and runs away " * 15_000  # 0.9 MB
    watched = Watched(model.encode_batch)
    rows = pack_rows([Document("s", text)], watched)
    assert watched.longest < 3 * pieces.PIECE and watched.most < 2 * pieces._AT_ONCE
    whole = np.array(model.encode(text))
    assert len(rows) == len(whole) // 31
    assert np.array_equal(rows.tokens[:, 1:].flatten(), whole[: len(rows) * 31])


def by_words(prepend: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    tokenizer.train_from_iterator([mixed(1)], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return tokenizer


@pytest.mark.parametrize("prepend", ["always", "first", "never"])
def test_text_is_not_cut_where_a_cut_would_change_tokens(prepend):
    """One that puts a blank before every text sees one more of them in every piece."""
    tokenizer = by_words(prepend)
    watched = Watched(lambda texts: [e.ids for e in tokenizer.encode_batch(texts)])
    text = mixed(4)
    _, ids = joined(text, watched, 200)
    assert ids == tokenizer.encode(text).ids


def test_a_text_without_a_safe_cut_is_one_piece(model):
    assert list(pieces.cut("ab" * 5000, model, 100)) == ["ab" * 5000]


def byte_level(pattern: str) -> Tokenizer:
    """A byte-level BPE that cuts text into words by a pattern, as those of GPT-2, GPT-4 and Llama 3 do."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([mixed(1), one_line("base64", 3000), one_line("Chinese", 3000)], trainer)
    return tokenizer


def one_line(kind: str, length: int) -> str:
    random = np.random.default_rng(0)
    if kind == "base64":
        return base64.b64encode(random.bytes(length)).decode()[:length]
    signs = np.array(list("的一是不了人我在有他这为之大来以个中上们，。"))
    if kind == "Chinese":
        return "".join(signs[random.integers(0, len(signs), length)])
    return "".join(f"x{i}=f(y{i % 7});" for i in range(length // 10))


PATTERNS = {
    "GPT-2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "GPT-4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "one word": r"[\s\S]+",
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", ["base64", "Chinese", "code"])
def test_a_long_line_is_cut_where_words_end(kind, pattern):
    tokenizer = byte_level(PATTERNS[pattern])
    watched = Watched(lambda texts: [e.ids for e in tokenizer.encode_batch(texts)])
    text = one_line(kind, 60_000)
    parts, ids = joined(text, watched, 1000)
    assert ids == tokenizer.encode(text).ids
    if pattern != "one word":
        assert max(map(len, parts)) < 4000


def test_a_safe_cut_is_searched_to_the_end_of_the_text(model):
    text = "ab" * 30_000 + " and then words as usual" * 200
    parts, ids = joined(text, model, 1000)
    assert len(parts) > 2 and ids == model.encode(text)


def test_a_piece_that_does_not_fit_in_memory_is_refused(model, monkeypatch):
    monkeypatch.setattr("monosem.ops.memory.available_memory", lambda: 100 << 20)
    text = "ab" * (9 * pieces.PIECE)
    with pytest.raises(ValueError, match=r"text: the tokens of 1,179,648 characters without .* need 136 MB of memory"):
        list(pieces.cut(text, model))


class Text(str):
    __slots__ = ("__weakref__",)


class Stream:
    """3,000 documents, and the largest number of them in memory at once."""

    def __init__(self) -> None:
        self.alive: set[int] = set()
        self.most = 0

    def __call__(self, *_):
        for i in range(3000):
            text = Text(f"document {i} of many words ")
            self.alive.add(i)
            weakref.finalize(text, self.alive.discard, i)
            self.most = max(self.most, len(self.alive))
            yield Document(f"s{i % 3}", text)


def test_documents_are_not_held(model):
    stream = Stream()
    rows = pack_rows(stream(), model)
    assert len(rows) > 100 and rows.sources == ["s0", "s1", "s2"]
    assert stream.most <= 2 * pieces._MOST


def test_documents_of_language_model_training_are_not_held(model, tmp_path, monkeypatch):
    stream = Stream()
    monkeypatch.setattr(corpus, "read_jsonl", stream)
    (tmp_path / "t.jsonl").write_text("{}")
    prepared = corpus.Corpus(tmp_path / "t.jsonl", tmp_path, LMConfig(300, 32, 1, 16, 2, 32), 0.02)
    assert len(prepared.rows) > 100 and stream.most <= 3 * pieces._MOST
    few = Stream()
    assert held_out_loss(model, islice(few(), 900))["all"]["tokens"] > 900 and few.most <= 2 * pieces._MOST


@pytest.mark.parametrize(
    "count, kind", [(256, torch.uint8), (257, torch.int16), (32_768, torch.int16), (32_769, torch.int32)]
)
def test_sources_without_number(model, count, kind):
    names = [f"s{i * 7919 % count:06}" for i in range(count)]
    rows = pack_rows([Document(name, "a b c ") for name in names], model, n_ctx=4)
    assert rows.source.dtype == kind and rows.sources == sorted(set(names))
    assert int(rows.source.min()) == 0 and int(rows.source.max()) == count - 1
    at = int((rows.source[:, 1] == rows.sources.index(names[5])).nonzero()[0])
    assert rows.tokens[at, 1:].tolist() == model.encode("a b c ")[:3]


def test_documents_of_every_length_keep_their_source(model):
    documents = [Document(name, "word " * n) for n, name in [(3, "b"), (40_000, "a"), (1, "c"), (90, "b")]]
    rows = pack_rows(documents, model)
    expected = [i for d in documents for i in [ord(d.source) - ord("a")] * (len(model.encode(d.text)))]
    counted = rows.source[:, 1:][rows.tokens[:, 1:] != model.bos_id].tolist()
    assert counted == expected[: len(counted)] and len(expected) - len(counted) < 31
