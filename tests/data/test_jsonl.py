"""Files given as text: read, or refused with the line and the remedy."""

import gzip
import json
import lzma
import os
import sys

import pytest
from tiny import tiny_documents, tiny_model

import monosem as ms
from monosem.cli import main
from monosem.data.jsonl import read_jsonl
from monosem.data.text import Document

LINES = b'{"text": "one", "source": "a"}\n{"text": "two"}\n'
WANTED = [Document("a", "one"), Document("text", "two")]


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", LINES),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("a.jsonl", LINES.replace(b"\n", b"\xef\xbb\xbf\n\xef\xbb\xbf")),
        ("a.jsonl", b"\n  \n" + LINES + b"\n\n"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.jsonl", gzip.compress(LINES, mtime=0)),
        ("a.jsonl", lzma.compress(LINES)),
        ("a.jsonl", LINES.replace(b'"source"', b'"id": ' + b"9" * 5000 + b', "source"')),
        ("a.jsonl", LINES.replace(b'"two"', b'"two", "source": null')),
    ],
)
def test_jsonl_variants_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert list(read_jsonl(tmp_path / name)) == WANTED


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.jsonl", LINES.decode().encode("utf-16"), r"is UTF-16 text; .*iconv -f utf-16"),
        ("t.jsonl", LINES.decode().encode("utf-16-le"), r"line 1 is not JSON .*looks like UTF-16"),
        ("t.jsonl", LINES.decode().encode("utf-32"), r"is UTF-32 text"),
        ("t.jsonl", b"PAR1 and more", r"is a Parquet file; .*read_parquet\(file\).to_json"),
        ("t.jsonl", b"PK\x03\x04....", "is a zip archive"),
        ("t.jsonl", b"\x28\xb5\x2f\xfd....", "is packed with zstd"),
        ("t.jsonl", b"BZh91AY", "is packed with bzip2"),
        ("t.jsonl", b"\x93NUMPY....", "is a NumPy array; .*--tokens"),
        ("t.jsonl.gz", LINES, r"is damaged or cut short after line 0 .*whole .gz"),
        ("t.jsonl.gz", gzip.compress(LINES * 9, mtime=0)[:-9], r"is damaged or cut short after line \d+ .*whole .gz"),
        ("t.jsonl", b'[{"text": "a"}]', r"line 1 has no string field 'text'.*JSON array: `jq -c '.\[\]'`"),
        ("t.jsonl", b'[\n{"text": "a"}\n]', r"line 1 is not JSON .*JSON array"),
        ("t.jsonl", json.dumps({"text": "a"}, indent=1).encode(), r"line 1 is not JSON .*`jq -c .` writes it on one"),
        ("t.jsonl", LINES + b'{"text": "x", "y": ' + DEEP + b"}", "line 3 nests lists or objects too deeply"),
        ("t.jsonl", LINES + b'{"content": "x"}', r"line 3 has no string field 'text' \(its fields: 'content'\)"),
        ("t.jsonl", LINES + b'{"text": ' + b"9" * 5000 + b"}", "line 3 has no string field 'text'"),
        ("t.jsonl", LINES + b'{"text": "cut \\ud83d"}', r"line 3 holds a lone surrogate, U\+D83D, at character 4"),
        ("t.jsonl", LINES + b'{"text": "a", "source": "\\udcff"}', r"the source in .*line 3 holds a lone surrogate"),
    ],
)
def test_bad_jsonl_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        list(read_jsonl(tmp_path / name))
    assert name in str(error.value)
    str(error.value).encode("utf-8")  # can be printed


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder; .*It has no .jsonl file"):
        list(read_jsonl(tmp_path))
    (tmp_path / "a.jsonl.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a folder; .*Name one of its files: a.jsonl.gz"):
        list(read_jsonl(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe or a device"):
        list(read_jsonl(tmp_path / "pipe"))


def test_surrogate_pairs_are_decoded(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'{"text": "ok \\ud83d\\ude00"}')
    assert list(read_jsonl(tmp_path / "t.jsonl")) == [Document("text", "ok \U0001f600")]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("bad", ["x \ud83d y", "\udcff"])
def test_encoding_half_a_character(model, bad):
    with pytest.raises(ValueError, match=r"text: .* holds a lone surrogate"):
        model.encode(bad)
    with pytest.raises(ValueError, match=r"text: number 1 holds a lone surrogate, U\+D"):
        model.encode_batch(["ok", bad])
    with pytest.raises(ValueError, match=r"documents: number 1 \(source 'x'\) holds a lone surrogate"):
        ms.pack_rows([Document("x", "fine"), Document("x", bad + " w" * 900)], model)
    with pytest.raises(ValueError, match=r"documents: the source of number 0 holds a lone surrogate"):
        ms.pack_rows([Document(bad, "w " * 900)], model)


def test_values_that_are_no_texts_are_refused(model):
    with pytest.raises(ValueError, match=r"texts: got the text 'abc'; .*\[text\]"):
        model.encode_batch("abc")
    with pytest.raises(ValueError, match="text: got NoneType; wanted a string"):
        model.encode(None)


def test_rows_of_strings(model):
    words = "word and number 12345, " * 90
    assert ms.pack_rows([words], model).sources == ["text"]
    assert (ms.pack_rows([words], model).tokens == ms.pack_rows([Document("x", words)], model).tokens).all()
    for wrong in (words, Document("x", words), 3):
        with pytest.raises(ValueError, match=r"documents: got one (str|Document|int); wanted documents"):
            ms.pack_rows(wrong, model)
    for wrong in (3, None, ("x", words), Document("x", None), Document(3, words)):
        with pytest.raises(ValueError, match=r"documents: number 1 is .*; wanted documents"):
            ms.pack_rows([Document("x", words), wrong], model)


@pytest.mark.parametrize("command", ["train", "harvest", "lm"])
def test_a_command_names_the_bad_line_without_a_traceback(tmp_path, capsys, command):
    lines = [json.dumps({"text": d.text, "source": d.source}) for d in tiny_documents()]
    lines[13] = '{"text": "cut here \\ud83d"}'
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    commands = ["lm", "train"] if command == "lm" else [command]
    assert main.main([*commands, "--text", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr().err.strip().splitlines()[-1]
    assert output.startswith(f"monosem {command}: text: ") and "t.jsonl, line 14 holds a lone surrogate" in output


def test_arguments_that_are_not_utf8(tmp_path, capsys):
    folder = tmp_path / "sae"
    ms.save(ms.TopKSAE(512, 64, 4, seed=0), folder, metadata={"model": "A", "hook_name": "blocks.0.mlp.hook_post"})
    name = os.fsdecode(b"\xff.jsonl")
    for argv in (
        ["evaluate", str(folder), "--text", name],
        ["evaluate", str(folder), "--hook", "\udcff"],
        ["train", "--text", name, "--out", str(tmp_path / "o")],
        ["steer", str(folder), "--pin", "3=5", "--prompt", "a \udcff b"],
    ):
        try:
            code = main.main(argv)
        except SystemExit as stopped:  # argparse
            code = stopped.code
        output = capsys.readouterr().err
        assert code == 2 and "Traceback" not in output, argv
        output.encode(sys.stderr.encoding or "utf-8", "backslashreplace")
