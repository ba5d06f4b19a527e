"""The text of tokens for each family of tokenizer: laid end to end, the tokens of a text are the text."""

import pytest
from tiny import TEXTS, tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from monosem.analysis.windows import TextCache, show
from monosem.data.tokenizer import BOS, plain_text
from monosem.data.vocabulary import Spelling, Vocabulary, readable

CORPUS = [*TEXTS.values(), "the cat sat on the mat", "naïve café, ça va?", "ÀÉÖ ÿ ¡¢£"] * 4
LINE = "the cat sat, naïve café 漢 and 😀!"
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[BOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def llama_like() -> Tokenizer:
    """BPE over ▁, bytes for what is not in the vocabulary, the blank in front put there by a normalizer (Llama 2)."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", BOS, *BYTES], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def t5_like() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", BOS], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, LINE], trainer)
    return tokenizer


def bert_like() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.Whitespace(),
        decoders.WordPiece(prefix="##", cleanup=False),
    )
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", BOS], show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, LINE], trainer)
    return tokenizer


FAMILIES = {
    "byte-level": (byte_level, Spelling.BYTE_LEVEL),
    "llama": (llama_like, Spelling.METASPACE),
    "t5": (t5_like, Spelling.METASPACE),
    "bert": (bert_like, Spelling.WORDPIECE),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    make, spelling = FAMILIES[request.param]
    tokenizer = make()
    tokenizer.add_tokens([AddedToken("nâoĠ▁<0x41>", normalized=False)])
    return request.param, plain_text(tokenizer), spelling


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer.id_to_token, tokenizer.get_vocab_size(), tokenizer)


def joined(tokenizer: Tokenizer, text: str) -> bytes:
    spelled = vocabulary(tokenizer)
    return b"".join(spelled.bytes_of(i) for i in tokenizer.encode(text, add_special_tokens=False).ids)


def test_the_tokens_of_a_text_are_the_text(family):
    name, tokenizer, spelling = family
    assert vocabulary(tokenizer).spelling is spelling
    if name == "bert":  # which forgets where there was no blank
        assert joined(tokenizer, "the cat sat, naïve").decode() == " the cat sat , naïve"
    else:
        front = "" if name == "byte-level" else " "
        assert joined(tokenizer, LINE).decode() == front + LINE


def test_an_added_word_is_spelled_as_it_stands(family):
    _, tokenizer, _ = family
    assert b"n\xc3\xa2o\xc4\xa0\xe2\x96\x81<0x41>" in joined(tokenizer, "the nâoĠ▁<0x41> sat")


@pytest.mark.parametrize("make", [llama_like, t5_like, bert_like])
def test_letters_are_not_decoded_as_bytes(make):
    tokenizer = make()
    spelled = vocabulary(tokenizer)
    shown = [readable(spelled.bytes_of(i)) for i in tokenizer.encode("café ÿ", add_special_tokens=False).ids]
    assert "é" in "".join(shown) and not any("⟨" in s for s in shown)


def behind_transformers(tokenizer: Tokenizer, unknown: str | None):
    from transformers import PreTrainedTokenizerFast

    from monosem.data.lens import LensModel

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, unk_token=unknown)
    model = LensModel.__new__(LensModel)
    model.module = type("Module", (), {"tokenizer": fast})()
    model.d_vocab = len(fast) + 64
    return model


@pytest.mark.parametrize(
    ("make", "unknown"), [(byte_level, None), (llama_like, "<unk>"), (t5_like, "<unk>"), (bert_like, "[UNK]")]
)
def test_a_special_token_that_a_text_spells_is_text(make, unknown):
    pytest.importorskip("transformers")
    model = behind_transformers(make(), unknown)
    ids = model.encode(f"the {BOS} token")
    assert model.bos_id not in ids and len(ids) > 3
    assert model.encode("the cat") == model.encode_batch(["x", "the cat"])[1]


def test_byte_tokens_need_all_256_bytes(family):
    _, tokenizer, _ = family
    few = Tokenizer(models.WordLevel({"<0x41>": 0, "▁a": 1}, unk_token="<0x41>"))
    few.decoder = decoders.Metaspace()
    assert vocabulary(few).bytes_of(0) == b"<0x41>" and vocabulary(few).bytes_of(1) == b" a"
    assert vocabulary(tokenizer).bytes_of(10**6) == b"[1000000]"  # behind the vocabulary, where models are padded


@pytest.mark.parametrize(
    ("entries", "spelling", "last"),
    [
        (
            [
                *"Ġ",
                *map(chr, [*range(33, 127), *range(161, 173), *range(174, 256)]),
                *map(chr, range(256, 324)),
                "Ġthe",
            ],
            Spelling.BYTE_LEVEL,
            b" the",
        ),
        (["a", "▁the"], Spelling.METASPACE, b" the"),
        (["a", "##s", "the"], Spelling.WORDPIECE, b" the"),
        (["a", "naïve"], Spelling.PLAIN, "naïve".encode()),
    ],
)
def test_spelling_is_inferred_from_the_vocabulary_without_a_decoder(entries, spelling, last):
    vocabulary_ = Vocabulary(lambda i: entries[i], len(entries))
    assert vocabulary_.spelling is spelling and vocabulary_.bytes_of(len(entries) - 1) == last


def cut_at_blanks() -> Tokenizer:
    """Whole words, no decoder: `decode` puts blanks between them."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits()])
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False))
    return tokenizer


def gpt_like() -> Tokenizer:
    """The first GPT, and CLIP: a suffix at the end of each word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def other_blank() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace("_"), decoders.Metaspace("_")
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def few_bytes() -> Tokenizer:
    """Byte-level, not all bytes in the vocabulary, no decoder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return tokenizer


@pytest.mark.parametrize("make", [cut_at_blanks, gpt_like, other_blank, few_bytes])
def test_blanks_of_other_spellings(make):
    assert joined(make(), "the cat sat on the mat").decode().strip() == "the cat sat on the mat"


def test_runs_of_blanks_that_are_added_words_are_blanks():
    """Gemma: ▁▁ is an added word, and the model finds it where the text has two blanks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", BOS, *BYTES], show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, "x:\n    return  y" * 9], trainer)
    tokenizer.add_tokens([AddedToken("▁▁", normalized=True), AddedToken("▁▁▁▁", normalized=False)])
    text = "x:\n    return  y"
    assert tokenizer.token_to_id("▁▁") in tokenizer.encode(text).ids
    assert joined(tokenizer, text).decode() == text


class Shown:
    """A model with the interface that windows use."""

    def __init__(self, tokenizer):
        from monosem.data.adapter import Model

        self.bos_id, self.d_vocab = tokenizer.token_to_id(BOS), tokenizer.get_vocab_size()
        self.vocabulary = vocabulary(tokenizer)
        for name in ("token_bytes", "token_str", "text_within"):
            setattr(self, name, getattr(Model, name).__get__(self))


def test_windows_keep_their_blanks(family):
    _, tokenizer, _ = family
    ids = tokenizer.encode("on the mat the cat sat", add_special_tokens=False).ids
    for model in (Shown(tokenizer), TextCache(Shown(tokenizer))):
        pieces = show(model, ids, [0.0] * len(ids), 0)
        assert "".join(p.text for p in pieces).strip() == "on the mat the cat sat"


def test_the_same_behind_transformers():
    """Llama's tokenizer puts a blank in front, and its `decode` takes it away, in the middle of a text too."""
    pytest.importorskip("transformers")
    model = behind_transformers(llama_like(), "<unk>")
    ids = model.encode(LINE)
    later = [model.text_within(ids[i:]) for i in range(8)]
    assert later[0] == " " + LINE and all(later[0].endswith(t) for t in later)
    behind = len(model.tokenizer) + 3
    assert model.token_str(behind) == f"[{behind}]"


def test_the_shipped_tokenizer():
    model = tiny_model()
    assert model.text_within(model.encode(LINE)) == LINE and model.bos_id not in model.encode(f"a {BOS} b")


def test_entries_that_are_bytes():
    """The slow tokenizer of Qwen 1 gives them so; its special tokens are text."""
    entries = [b"the", b" cat", "\u05e9".encode()[:1], "\u05e9".encode()[1:], b"\xe2\x96\x81x", "<|endoftext|>", None]
    tokenizer = Vocabulary(lambda i: entries[i], len(entries))
    assert [tokenizer.bytes_of(i) for i in range(5)] == entries[:5]
    assert b"".join(map(tokenizer.bytes_of, range(4))).decode() == "the cat\u05e9"
    assert tokenizer.bytes_of(5) == b"<|endoftext|>" and tokenizer.bytes_of(6) == b"[6]"
