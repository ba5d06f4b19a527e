"""Files given as text: read, or refused with the line and the remedy."""

import gzip
import json
import lzma
import os
import sys

import numpy as np
import pytest
from tiny import tiny_documents, tiny_model

import monosem as ms
from monosem.cli import main
from monosem.data.chat import ids_of
from monosem.data.jsonl import read_jsonl
from monosem.data.lm_eval import held_out_loss
from monosem.data.text import ChatDocument, Document, TokenDocument

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


def test_zstd_is_read_and_a_file_cut_short_is_refused(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    for name, content in (("a.jsonl.zst", LINES), ("b.jsonl", LINES * 20_000)):
        with arrow.output_stream(str(tmp_path / name), compression="zstd") as out:
            out.write(content)
    (tmp_path / "b.jsonl").rename(tmp_path / "named otherwise")
    assert list(read_jsonl(tmp_path / "a.jsonl.zst")) == WANTED
    assert list(read_jsonl(tmp_path / "named otherwise")) == WANTED * 20_000
    packed = (tmp_path / "a.jsonl.zst").read_bytes()
    (tmp_path / "cut.jsonl.zst").write_bytes(packed[:-5])
    with pytest.raises(ValueError, match=r"cut.jsonl.zst' is damaged or cut short after line \d+ .*whole .zst"):
        list(read_jsonl(tmp_path / "cut.jsonl.zst"))
    (tmp_path / "other.jsonl.zst").write_bytes(packed[:4] + b"....")
    with pytest.raises(ValueError, match=r"is damaged or cut short after line 0 .*whole .zst"):
        list(read_jsonl(tmp_path / "other.jsonl.zst"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ImportError, match=r"packed with zstd; wanted the package pyarrow.*`pip install 'monosem\[data\]'`"
    ):
        list(read_jsonl(tmp_path / "a.jsonl.zst"))


def test_other_columns_conversations_and_tokens(tmp_path):
    path = tmp_path / "t.jsonl"
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    path.write_text(json.dumps({"body": "one", "kind": "a", "messages": chat, "ids": [3, 4], "none": None, "n": 5}))
    assert list(read_jsonl(path, "body", "kind")) == [Document("a", "one")]
    (conversation,) = read_jsonl(path, "messages")
    assert conversation.messages == chat and conversation.source == "text"
    (tokens,) = read_jsonl(path, "ids")
    assert tokens.ids.tolist() == [3, 4]
    assert list(read_jsonl(path, "none")) == []
    with pytest.raises(
        ValueError, match=r"line 1 has no column 'content' \(its columns: 'body', 'kind', .*\?column=NAME"
    ):
        list(read_jsonl(path, "content"))
    with pytest.raises(ValueError, match=r"line 1, column 'n': got int 5; wanted a string, a list of messages"):
        list(read_jsonl(path, "n"))


def test_documents_of_tokens_and_of_text_are_packed_in_their_order(model):
    text, ids = Document("s", "the quick brown fox " * 3), model.encode("and the dog")
    mixed = [text, TokenDocument("s", np.array([model.bos_id, *ids])), TokenDocument("s", np.array(ids)), text]
    plain = [text, Document("s", "and the dog"), Document("s", "and the dog"), text]
    assert (ms.pack_rows(mixed, model, 8).tokens == ms.pack_rows(plain, model, 8).tokens).all()
    with pytest.raises(ValueError, match=r"source 's' holds token ids 0 to 300; 'tiny' knows 0 to 299"):
        ms.pack_rows([TokenDocument("s", np.array([5, 0, 300]))], model)
    for wrong, message in ((np.array([5.0, 6.5]), r"float64 \[2\]"), (np.array([ids, ids]), r"int64 \[2, \d+\]")):
        with pytest.raises(ValueError, match=rf"source 's' holds {message} as token ids; wanted integers \[n\]"):
            ms.pack_rows([TokenDocument("s", wrong)], model)


def test_a_conversation_is_laid_out_by_the_template_of_the_model(model):
    class Tokenizer:
        chat_template = "x"

        def apply_chat_template(self, messages, tokenize):
            if messages[0]["role"] != "user":
                raise RuntimeError("the user begins")
            return "".join(f"<{m['role']}>{m['content']}" for m in messages)

        def __call__(self, text, add_special_tokens):
            assert not add_special_tokens
            return {"input_ids": [model.bos_id, *model.encode(text)]}

    class Chatting:
        tokenizer, name, bos_id, d_vocab = Tokenizer(), "chatting", model.bos_id, model.d_vocab

    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    assert ids_of(ChatDocument("s", messages), Chatting()).tolist() == model.encode("<user>hello<assistant>hi")
    with pytest.raises(ValueError, match=r"template of 'chatting' refuses a conversation \(the user begins\)"):
        ids_of(ChatDocument("s", messages[1:]), Chatting())
    with pytest.raises(ValueError, match=r"the tokenizer of 'tiny' has no chat template; .*column of text"):
        ms.pack_rows([ChatDocument("s", messages)], model)
    with pytest.raises(ValueError, match="a document of 's' that is a conversation or tokens; wanted text"):
        held_out_loss(model, [ChatDocument("s", messages)])


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.jsonl", LINES.decode().encode("utf-16"), r"is UTF-16 text; .*iconv -f utf-16"),
        ("t.jsonl", LINES.decode().encode("utf-16-le"), r"line 1 is not JSON .*looks like UTF-16"),
        ("t.jsonl", LINES.decode().encode("utf-32"), r"is UTF-32 text"),
        ("t.jsonl", b"PAR1 and more", r"is a Parquet file; .*read_parquet\(file\).to_json"),
        ("t.jsonl", b"PK\x03\x04....", "is a zip archive"),
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
