"""A flipped bit in any file that the project reads back is refused, by name; older files load with a note."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import monosem as ms
from monosem.analysis.index import build_index, open_index
from monosem.analysis.inputs import Subject
from monosem.data import models, native, sealed
from monosem.data.corpus import Corpus
from monosem.data.language_model import LMConfig, Transformer
from monosem.data.token_rows import pack_rows
from monosem.data.tokenizer import train_tokenizer

TINY = LMConfig(d_vocab=300, n_ctx=16, n_layers=1, d_model=8, n_heads=2, d_mlp=16)
TEXTS = ["the cat sat on the mat and looked at the dog " * 3, "der Hund sah die Katze an und lief davon " * 3]


def dictionary(folder):
    ms.save(ms.TopKSAE(8, 32, 4, seed=0), folder)
    return ms.load


def language_model(folder):
    module = Transformer(TINY).init_weights(0)
    native.save_folder(folder, module, train_tokenizer(TEXTS, 300))
    return models.load_model


def corpus(folder):
    text = folder.parent / "text.jsonl"
    text.write_text("".join(json.dumps({"source": "x", "text": t}) + "\n" for t in TEXTS * 3))
    folder.mkdir(exist_ok=True)
    return lambda there: Corpus(text, there, TINY, 0.2)


def index(folder):
    model = native.NativeModel(Transformer(TINY).init_weights(0), train_tokenizer(TEXTS, 300))
    rows = pack_rows([ms.data.text.Document("x", t) for t in TEXTS], model)
    subject = Subject(ms.TopKSAE(16, 64, 4, seed=0), model, "blocks.0.mlp.hook_post")
    build_index(subject, rows, folder, progress=False)

    def read_all(there):
        opened = open_index(there)
        for name in opened._arrays:
            opened._arrays[name]

    return read_all


KINDS = [dictionary, language_model, corpus, index]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_refused_with_the_name_of_the_file(kind, tmp_path):
    folder = tmp_path / "made"
    read = kind(folder)
    read(folder)
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for at in {0, len(good) // 2, *rng.integers(0, len(good), 12).tolist()}:
            bad = bytearray(good)
            bad[at] ^= 1 << int(rng.integers(0, 8))
            if path.suffix == ".json" and same_json(good, bad):
                continue
            path.write_bytes(bad)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(ValueError) as refused:
                    read(folder)
            assert path.name in str(refused.value), (path.name, at, str(refused.value))
        path.write_bytes(good)
    read(folder)


def same_json(good, bad):
    """A flipped space between two fields changes nothing."""
    try:
        return json.loads(good.decode()) == json.loads(bad.decode())
    except ValueError:
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_a_version_without_digests_loads_with_a_note(kind, tmp_path):
    folder = tmp_path / "made"
    read = kind(folder)
    read(folder)
    for name in ("cfg.json", "config.json", "corpus.json", "index.json"):
        if (folder / name).is_file():
            record = json.loads((folder / name).read_text())
            del record["digests"], record["sha256"]
            (folder / name).write_text(json.dumps(record))
            with pytest.warns(RuntimeWarning, match=f"{name}.*without checksums"):
                read(folder)


def test_a_damaged_digests_key_is_not_taken_for_an_older_file(tmp_path):
    sealed.write(tmp_path / "a.json", {"x": 1})
    text = (tmp_path / "a.json").read_text()
    for old, new in (("sha256", "rha256"), ("digests", "digestr")):
        (tmp_path / "a.json").write_text(text.replace(old, new))
        with pytest.raises(ValueError, match="altered"):
            sealed.read(tmp_path / "a.json", "file", "what was written")


def test_round_trip(tmp_path):
    record = {"b": (1, 2.5e-300, None), "a": {10: "ä\n", 9: True}}
    sealed.write(tmp_path / "a.json", record)
    assert sealed.read(tmp_path / "a.json", "file", "it")[0] == {
        "b": [1, 2.5e-300, None],
        "a": {"10": "ä\n", "9": True},
    }
    with pytest.raises(ValueError, match="JSON compliant"):
        sealed.write(tmp_path / "b.json", {"x": float("nan")}, allow_nan=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[1]", "holds a list"),
        (b'{"x": ' + b"[" * 100_000, "is not JSON"),
        (b'{"x": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
)
def test_a_file_that_is_no_json_object_is_named(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"key: .*a\.json.*{message}.*; wanted a key"):
        sealed.read_json(tmp_path / "a.json", "key", "a key")
    with pytest.raises(FileNotFoundError, match=r"key: no file .*wanted a key"):
        sealed.read_json(tmp_path / "none.json", "key", "a key")


def test_a_kill_between_two_checkpoints_of_an_index_is_not_reported_as_damage(tmp_path):
    """Resuming checks the part that the checkpoint covers; a flipped bit in it is refused."""
    from monosem.analysis.index.codes import CodeLog

    log = CodeLog(tmp_path, 8, 100)
    log.open(0)
    entries = torch.arange(4), torch.arange(4), torch.arange(4.0)
    log.add(*entries)
    log.sync()
    known = dict(log.crc32)
    log.add(*entries)
    log.close()
    again = CodeLog(tmp_path, 8, 100)
    again.open(4, known)
    again.close()
    path = tmp_path / "unfinished.values"
    bad = bytearray(path.read_bytes())
    bad[5] ^= 4
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r"unfinished\.values' is altered"):
        CodeLog(tmp_path, 8, 100).open(4, known)


def test_tensors_are_copied_block_by_block(tmp_path):
    g = torch.Generator().manual_seed(0)
    there = {"rows": torch.randn(37, 5, generator=g), "vector": torch.randn(11, generator=g), "one": torch.tensor(3.0)}
    there["none"], there["half"] = torch.zeros(0, 4), torch.randn(3, 7, generator=g).to(torch.bfloat16)
    save_file(there, tmp_path / "w.safetensors")
    shapes = sealed.tensor_shapes(tmp_path / "w.safetensors", "folder", "restore it")
    assert shapes == {n: ("BF16" if n == "half" else "F32", list(t.shape)) for n, t in there.items()}
    for block in (1, 100, 1 << 20):  # bytes: a row each, some rows, all
        into = {name: torch.full_like(value, torch.nan) for name, value in there.items()}
        sealed.copy_tensors(tmp_path / "w.safetensors", into, block)
        assert all(torch.equal(into[name], value) for name, value in there.items())
    (tmp_path / "w.safetensors").write_bytes(b"no such file")
    with pytest.raises(ValueError, match="is cut short or altered"):
        sealed.tensor_shapes(tmp_path / "w.safetensors", "folder", "restore it")
