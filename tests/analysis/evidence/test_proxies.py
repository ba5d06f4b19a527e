"""Proxies: bytes to characters, log ratios by hand, and features of known precision scored right."""

import json
import math
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monosem.analysis.evidence import proxies
from monosem.analysis.evidence.proxies.characters import Vocabulary
from monosem.analysis.evidence.proxies.intervals import ContextSums, intervals, pearson
from monosem.analysis.evidence.proxies.kinds import best_run
from monosem.analysis.evidence.proxies.moments import ProxyMoments
from monosem.analysis.evidence.section import render_page
from monosem.analysis.inputs import Subject
from monosem.analysis.neuron_basis import NeuronBasis
from monosem.analysis.scan import blocks
from monosem.analysis.sources import SourceMoments

ALEF = "ا".encode()
# 1 and 2 are halves of one Arabic letter, 4 begins another letter and ends the one before.
TOKENS = [
    b"",
    ALEF[:1],
    ALEF[1:],
    " مر".encode(),
    ALEF[1:] + ALEF[:1],
    b"AC",
    b"GT",
    b"acg",
    b" the",
    b"x",
    b"\n",
    b"19",
]
TOKENS += [b"95", "é".encode(), b"95)", "م,".encode(), b"-", b"c29tZSBi", b"ZWQgdGhl"]
BOS, HIGH, LOW, WORD, BOTH, AC, GT, SMALL, THE, X, LINE, NINETEEN, YEAR, ACUTE, CLOSE, COMMA, DASH, B64, B64B = range(
    19
)
HOOK = "blocks.0.mlp.hook_post"


class BytesModel:
    """Tokens of given bytes; the activation is the unit vector of the token: neuron t says "token t"."""

    name, bos_id, n_ctx, d_vocab = "bytes", BOS, 8, len(TOKENS)
    hook_names = [HOOK]

    def token_bytes(self, token):
        return TOKENS[token]

    def token_str(self, token):
        return TOKENS[token].decode(errors="replace")

    def decode(self, ids):
        return b"".join(TOKENS[t] for t in ids).decode(errors="replace")

    text_within = decode

    def width(self, hook_name):
        return self.d_vocab

    def activations(self, tokens, hook_name):
        return torch.nn.functional.one_hot(tokens, self.d_vocab).float()


def rows_of(*rows: list[int], sources: tuple[str, ...] = ("text",)) -> SimpleNamespace:
    """Each row of another source, the last one of all further rows."""
    tokens = torch.tensor([[BOS, *r] for r in rows], dtype=torch.int32)
    source = torch.arange(len(rows)).clamp_max(len(sources) - 1)[:, None].expand_as(tokens)
    return SimpleNamespace(tokens=tokens, source=source, sources=list(sources))


def scores(proxy, fit_on, tokens) -> list[float]:
    fitted = proxies.ProxySet(BytesModel(), fit_on, [], extra=[proxy])
    return fitted.scores(np.array([[BOS, *tokens]]))[0, 0, 1:].tolist()


def test_token_bytes_decode_as_in_python():
    """Every string of bytes decodes as Python decodes it, and a character never reaches over a row or a BOS."""
    random = np.random.default_rng(0)
    text = "aé中😀מا"
    pieces = [
        b"",
        *(c.encode()[i:j] for c in text for i, j in combinations(range(len(c.encode()) + 1), 2)),
        b"\xff",
        b"\xc0",
    ]
    model = SimpleNamespace(bos_id=0, d_vocab=len(pieces), token_bytes=lambda t: pieces[t])
    vocabulary = Vocabulary(model)
    tokens = random.integers(1, len(pieces), (40, 12))
    tokens[random.random(tokens.shape) < 0.1] = 0
    read = vocabulary.read(tokens)
    for start, end in read.documents(0):
        flat = tokens.reshape(-1)[start:end]
        raw = b"".join(pieces[t] for t in flat)
        string, at = read.text(start, end)
        assert string.encode(errors="replace") is not None and len(at) == len(string)
        assert [c for c in string if c != "\ufffd"] == [c for c in raw.decode(errors="replace") if c != "\ufffd"]
    # A letter cut by the end of a row, or by a BOS, is no letter.
    cut = Vocabulary(BytesModel()).read(np.array([[BOS, HIGH], [LOW, BOS], [HIGH, LOW]]))
    assert cut.code.tolist() == [0, -1, -1, 0, 0x627, 0x627]
    assert cut.complete.tolist()[1] is False and cut.complete.tolist()[5] is True


def test_the_best_run_is_the_maximum_over_all_prefixes():
    ratios = np.random.default_rng(1).normal(size=(3, 20))
    for min_length in (1, 2, 5):
        got = best_run(ratios, min_length)
        for row in range(3):
            for i in range(20):
                runs = [ratios[row, j : i + 1].sum() for j in range(i + 2 - min_length)]
                assert got[row, i] == pytest.approx(max(runs)) if runs else got[row, i] < -1e5


def test_character_set_scores_agree_with_hand_calculation():
    """log P(s | DNA) / P(s) of AC, GT: (1/4)² over their frequencies; at least two tokens; a BOS ends every run."""
    text = rows_of([AC, GT, X, X, THE, AC, X], [GT, X, THE, THE, LINE, X, X])
    n = 14
    dna = proxies.CharacterSet("d", ["ACGT", "acgt"], tokens=2, binary=True)
    one = math.log((1 / 16) / (2 / n))  # AC and GT both stand twice among 14 tokens
    got = scores(dna, text, [AC, GT, AC, X, BOS, GT, AC])
    assert got[1] == pytest.approx(2 * one) and got[2] == pytest.approx(max(3 * one, 2 * one))
    assert got[3] == pytest.approx(max(one, 3 * one, 2 * one) + math.log(1e-10 / (6 / n)))
    assert got[0] < -1e5 and got[5] < -1e5 and got[6] == pytest.approx(2 * one)
    base64 = proxies.CharacterSet("b", ["abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"])
    got = scores(base64, text, [AC, ACUTE, LOW])
    assert got[0] == pytest.approx(-2 * math.log(64) - math.log(2 / n))
    assert got[1] == pytest.approx(max(0, got[0]) + math.log(1e-10) - math.log(0.5 / n))  # é is one character
    assert got[2] == pytest.approx(max(0, got[1]) + math.log(1e-10) - math.log(0.5 / n))  # half a letter too


def test_script_scores_follow_bayes():
    """P(Arabic | s) / P(Arabic): 1 for whole letters, 1e-10 with a comma, and for half a letter its share."""
    text = rows_of([WORD, HIGH, LOW, X, HIGH, X, THE], [WORD, HIGH, LOW, COMMA, THE, X, X])
    arabic = proxies.Script("Arabic", [(0x600, 0x6FF)])
    share = 6 / 14  # two words, two letters of two halves each; the third HIGH is no letter
    got = scores(arabic, text, [WORD, HIGH, LOW, COMMA, X, BOTH, HIGH])
    assert got[0] == pytest.approx(-math.log(share)) and got[2] == pytest.approx(-math.log(share))
    assert got[1] == pytest.approx(math.log(2 / 3 / share))  # two of its three occurrences begin a letter
    assert got[3] == got[4] == pytest.approx(math.log(1e-10 / share))
    assert got[5] == pytest.approx(math.log(1e-10 / share))  # never seen: no share to go by


def test_patterns_and_functions_give_scores(tmp_path, monkeypatch):
    text = rows_of([NINETEEN, YEAR, X, NINETEEN, CLOSE, DASH, X], [X] * 7)
    year = proxies.parse(r"year=\b19\d\d\b", BytesModel())
    assert scores(year, text, [NINETEEN, YEAR, DASH, NINETEEN, CLOSE]) == pytest.approx([1, 1, 0, 1, 2 / 3])
    assert scores(year, text, [NINETEEN, BOS, YEAR, DASH, DASH]) == [0] * 5  # no match reaches over a BOS
    assert scores(proxies.parse("the=the", BytesModel()), text, [THE, X, ACUTE]) == [1, 0, 0]
    (tmp_path / "my_scores.py").write_text(
        "def long(tokens):\n    return [len(t) - 2 for t in tokens]\ndef short(tokens):\n    return [1.0]\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert scores(proxies.parse("long=my_scores:long", BytesModel()), text, [THE, X, BOS, AC]) == [2, -1, 0, 0]
    with pytest.raises(ValueError, match=r"for 2 tokens my_scores:short gave an array of shape \(1,\)"):
        scores(proxies.parse("s=my_scores:short", BytesModel()), text, [X, X])
    for spec, message in (
        ("my_scores:long", "NAME=REGEX"),
        ("a=(", "not a regular expression"),
        ("a=my_scores:none", "none"),
        ("a=nowhere_at_all:f", "MODULE:FUNCTION"),
        ("a=my_scores:number", "no function"),
    ):
        with pytest.raises(ValueError, match=message):
            proxies.parse(spec, BytesModel())
    with pytest.raises(ValueError, match="more than once"):
        proxies.ProxySet(BytesModel(), text, [year], extra=[year])


def test_moments_agree_with_numpy():
    random = np.random.default_rng(2)
    f = torch.from_numpy(np.where(random.random((300, 7)) < 0.2, random.random((300, 7)), 0)).float()
    f[:, 3] = 0
    y = torch.from_numpy(np.where(random.random((2, 300)) < 0.3, random.random((2, 300)), 0))
    sums = ProxyMoments(7, 2)
    for part in (slice(0, 100), slice(100, 300)):
        at, features = f[part].nonzero().T
        sums.update(f[part][at, features], features, at, y[:, part], y[:, part] > 0)
    r = sums.correlations()
    for p in range(2):
        for i in range(7):
            wanted = np.corrcoef(f[:, i], y[p])[0, 1] if i != 3 else 0
            assert float(r[p, i]) == pytest.approx(wanted, abs=1e-9)
    match, on, positive = sums.match(1, 0, 0.5), f[:, 0] > 0, y[1] > 0
    assert match.specificity == pytest.approx(float((on & positive).sum() / on.sum()))
    assert match.sensitivity == pytest.approx(float((on & positive).sum() / positive.sum()))
    assert match.mass == pytest.approx(float(f[:, 0][positive].sum() / f[:, 0].sum()))
    assert match.density == pytest.approx(float(on.float().mean()))


class Planted:
    """Feature 0 fires on WORD (2) and, half as hard, on THE; feature 1 on X; 2 never. CSR, like a ReLU dictionary."""

    def __init__(self):
        self.W_dec = torch.zeros(3, len(TOKENS))
        self.cfg = SimpleNamespace(d_in=len(TOKENS), d_sae=3, kind="planted")
        self.read = torch.zeros(len(TOKENS), 3)
        self.read[WORD, 0], self.read[THE, 0], self.read[X, 1] = 2.0, 1.0, 1.0

    def encode(self, x):
        code = NeuronBasis(3).encode((x @ self.read).reshape(-1, 3))
        return code


def test_specificity_and_sensitivity_of_a_planted_feature():
    """Of feature 0's activations 6 are Arabic (strong) and 2 are not (weak): specific 75 %, by level 0 and 100 %."""
    lines = [WORD, WORD, THE, X, X, X, X], [WORD, WORD, WORD, WORD, THE, X, X], [X, X, X, X, X, X, X]
    text = rows_of(*lines, sources=("ar_text",))
    arabic = proxies.Script("Arabic", [(0x600, 0x6FF)])
    result = proxies.measure(
        Subject(Planted(), BytesModel(), HOOK),
        text,
        proxies=[arabic],
        extra=[proxies.parse("ex=x", BytesModel())],
        contexts=2,
        progress=False,
    )
    first, ex = result.proxies
    feature = first["feature"]
    y = np.array([1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0] + [0] * 7)
    f = np.array([2, 2, 1, 0, 0, 0, 0, 2, 2, 2, 2, 1, 0, 0] + [0] * 7)
    assert (feature["index"], feature["maximum"]) == (0, 2.0) and first["base_rate"] == pytest.approx(6 / 21)
    assert feature["correlation"] == pytest.approx(np.corrcoef(f, y)[0, 1])
    assert (
        feature["specificity"] == 0.75 and feature["sensitivity"] == 1.0 and feature["mass"] == pytest.approx(12 / 14)
    )
    levels = [(x["tokens"], x["specificity"]) for x in feature["profile"]["levels"]]
    assert levels[5] == (2, 0.0) and levels[10] == (6, 1.0) and levels[0] == (0, None)
    assert [len(e) for e in feature["examples"]] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3]
    assert np.sum(feature["profile"]["counts"]) == 8 and np.sum(feature["profile"]["mass"]) == pytest.approx(14)
    focus = [text for e in feature["examples"][10] for text, _, on in e["pieces"] if on]
    assert focus == [" مر"] * 3
    # The neuron of the word is active on nothing else: better than the feature.
    assert (first["neuron"]["index"], first["neuron"]["correlation"]) == (WORD, pytest.approx(1.0))
    assert (ex["feature"]["index"], ex["feature"]["correlation"]) == (1, pytest.approx(1.0))
    assert [c["index"] for c in first["companions"]] == [1]  # 2 never fires

    page = render_page("t", [proxies.section(json.loads(json.dumps(result.to_dict(), allow_nan=False)))])
    assert ">#0</a>; best neuron" in page and "0.74" in page and "ex" in result.table()


def test_neurons_can_be_measured_and_absent_scripts_are_left_out():
    lines = [WORD, HIGH, LOW, X, AC, GT, AC], [B64, B64B, B64, B64B, THE, LINE, X]
    text = rows_of(*lines, sources=("dna", "base64"))
    result = proxies.measure(Subject(NeuronBasis(len(TOKENS)), BytesModel(), HOOK), text, progress=False)
    assert {"Arabic", "DNA", "base64", "hexadecimal"} == {p["name"] for p in result.proxies}
    assert {"Hebrew", "Korean", "Devanagari"} <= set(result.absent)
    assert all(p["neuron"] is None for p in result.proxies)
    assert "not in this text" in result.table()
    assert render_page("t", [proxies.section(result.to_dict())])


def test_the_feature_of_a_label_is_that_of_its_proxy():
    """A label with a built-in proxy has the feature that ``measure`` names; another one goes by its tokens."""
    lines = [WORD, WORD, THE, X, X, X, X], [WORD, WORD, WORD, WORD, THE, X, X], [X, X, X, X, X, X, X]
    text = rows_of(*lines, sources=("ar_text", "ar_more", "letters"))
    subject = Subject(Planted(), BytesModel(), HOOK)
    groups = {"letters": [2], "Arabic": [0, 1]}
    of_proxies = {p["name"]: p["feature"] for p in proxies.measure(subject, text, progress=False).proxies}
    assert of_proxies["Arabic"]["index"] == 0
    assert proxies.label_features(subject, text, groups, moments_of(subject, text)) == {"letters": 1, "Arabic": 0}
    nothing = rows_of([THE, THE, THE, THE, THE, THE, THE], sources=("ar_text",))
    silent = Subject(Silent(), BytesModel(), HOOK)
    assert proxies.label_features(silent, nothing, {"Arabic": [0]}, moments_of(silent, nothing)) == {}


def moments_of(subject, text):
    moments = SourceMoments(3, text.sources)
    for block in blocks(subject.sae, subject.model, subject.hook_name, text):
        moments.update(block)
    return moments


class Silent(Planted):
    """Its features fire on nothing."""

    def __init__(self):
        super().__init__()
        self.read.zero_()


def test_the_interval_of_a_correlation_is_that_of_resampled_contexts():
    """Contexts of 30 tokens that agree among themselves: the interval is wider than that of tokens."""
    random = np.random.default_rng(0)
    contexts, length = 60, 30
    strength = random.normal(size=contexts).clip(0)
    f = (strength[:, None] * (random.random((contexts, length)) < 0.7)).astype(np.float32)
    y = np.maximum(strength[:, None] + random.normal(size=(contexts, length)), 0)
    sums, silent = ContextSums(), ContextSums()
    for first in range(0, contexts, 7):
        block = slice(first, first + 7)
        at = torch.from_numpy(f[block].reshape(-1).nonzero()[0])
        level, n = torch.from_numpy(y[block].reshape(-1)), len(f[block])
        context = torch.arange(n).repeat_interleave(length)
        sums.update(torch.from_numpy(f[block].reshape(-1))[at], at, level, context, n)
        silent.update(torch.zeros(0), at[:0], level, context, n)
    assert pearson(sums.sums().sum(0))[0] == pytest.approx(np.corrcoef(f.ravel(), y.ravel())[0, 1])
    (low, high), nothing = intervals([sums, silent])
    drawn = random.integers(0, contexts, (1000, contexts))
    r = [np.corrcoef(f[d].ravel(), y[d].ravel())[0, 1] for d in drawn]
    assert (low, high) == (
        pytest.approx(np.percentile(r, 2.5), abs=0.02),
        pytest.approx(np.percentile(r, 97.5), abs=0.02),
    )
    of_tokens = random.integers(0, f.size, (300, f.size))
    narrow = np.ptp(np.percentile([np.corrcoef(f.ravel()[d], y.ravel()[d])[0, 1] for d in of_tokens], [2.5, 97.5]))
    assert high - low > 1.5 * narrow
    assert nothing is None and intervals([]) == []
