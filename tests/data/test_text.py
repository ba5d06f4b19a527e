"""Reading documents, and the errors for other files."""

import json
import lzma
from collections import Counter

import pytest

from monosem.data.jsonl import read_jsonl
from monosem.data.sample import load_documents
from monosem.data.text import Document, held_out_places, of_split


def write(path, records):
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records), encoding="utf-8")
    return path


def test_plain_and_packed(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"source": "x", "text": "héé"}, {"text": "no source"}])
    expected = [Document("x", "héé"), Document("text", "no source")]
    assert list(read_jsonl(path)) == expected
    packed = tmp_path / "a.jsonl.xz"
    packed.write_bytes(lzma.compress(path.read_bytes() + b"\n\n"))
    assert list(read_jsonl(packed)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "\xff\xfe"}', r"line 2 is not UTF-8 \(byte 0xff at column 10\); .*iconv"),
        (b"plain words", "line 2 is not JSON"),
        (b'{"source": "x"}', "line 2 has no string field 'text'"),
        (b'{"text": 3}', "line 2 has no string field 'text'"),
        (b'["text"]', "line 2 has no string field 'text'"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=message):
        list(read_jsonl(path))


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing.jsonl"):
        list(read_jsonl(tmp_path / "nothing.jsonl"))
    packed = lzma.compress(b'{"text": "a long enough line of text"}\n' * 1000)
    (tmp_path / "cut.xz").write_bytes(packed[:-20])
    with pytest.raises(ValueError, match="damaged or cut short after line"):
        list(read_jsonl(tmp_path / "cut.xz"))
    (tmp_path / "not.xz").write_bytes(b'{"text": "not packed"}')
    with pytest.raises(ValueError, match="damaged or cut short after line 0"):
        list(read_jsonl(tmp_path / "not.xz"))


def split_holdout(documents, share=0.02):
    held = held_out_places(Counter(d.source for d in documents), share)
    return tuple(list(of_split(documents, held, held_out=which)) for which in (False, True))


def test_split_holds_out_of_each_source():
    documents = [Document("ab"[i % 2], str(i)) for i in range(400)] + [Document("few", "1"), Document("few", "2")]
    documents.append(Document("one", "alone"))
    train, held_out = split_holdout(documents)
    assert sorted(map(id, train + held_out)) == sorted(map(id, documents))
    assert {s: sum(d.source == s for d in held_out) for s in ("a", "b", "few", "one")} == {
        "a": 4,
        "b": 4,
        "few": 1,
        "one": 0,
    }
    assert split_holdout(documents) == (train, held_out)
    assert split_holdout(documents, 0) == (documents, [])
    with pytest.raises(ValueError, match="share: got 1; wanted a fraction"):
        split_holdout(documents, 1)


def test_load_documents(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"source": "x", "text": str(i)} for i in range(100)])
    train, held_out = load_documents(path), load_documents(str(path), "held_out")
    assert (train, held_out) == split_holdout(load_documents(path, "all"))
    write(path, [{"text": "just one"}])
    with pytest.raises(ValueError, match=r"no document for split 'held_out'.*Use split 'all'"):
        load_documents(path, "held_out")
