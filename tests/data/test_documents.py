"""Texts of every kind of file, and datasets of Hugging Face: read from any row on, split, or refused."""

import gzip
import json
import sys

import numpy as np
import pytest
from tiny import tiny_model

import monosem as ms
from monosem.data import fingerprint, plain_text
from monosem.data.chat import ids_of
from monosem.data.documents import Documents
from monosem.data.sample import load_documents, stream_documents
from monosem.data.text import ChatDocument, Document
from monosem.data.text_spec import parse

COUNT = 120
RECORDS = [{"text": f"document number {i}", "source": "ab"[i % 2], "n": i, "ids": [i, i + 1]} for i in range(COUNT)]
HELD = [25, 75]


def wanted(numbers=range(COUNT)):
    return [Document("ab"[i % 2], f"document number {i}") for i in numbers]


def write(folder, kind):
    """A text of ``RECORDS``, in two files or one; its name."""
    if kind == "jsonl":
        for name, part in (("a", RECORDS[:50]), ("b", RECORDS[50:])):
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, part)).encode()))
        return str(folder / "*.jsonl.gz")
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    if kind == "parquet":
        parquet.write_table(arrow.Table.from_pylist(RECORDS), folder / "t.parquet", row_group_size=32)
        return str(folder / "t.parquet")
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(RECORDS).save_to_disk(str(folder / "saved"))
    return f"hf:{folder / 'saved'}"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "hf"])
def test_every_kind_gives_the_same_documents_from_any_row_on(tmp_path, kind):
    name = write(tmp_path, kind)
    documents = Documents(name)
    rows = list(documents.read())
    assert [document for *_, document in rows] == wanted() == list(documents) == list(ms.documents(name))
    for at in (0, 1, 31, 32, 49, 50, 51, COUNT - 1):
        part, row, _ = rows[at]
        assert list(Documents(name).read(part, row)) == rows[at:]
    held, train = list(Documents(name, "held_out")), list(Documents(name, "train"))
    assert len(held) + len(train) == COUNT and not {d.text for d in held} & {d.text for d in train}
    if kind != "jsonl":  # two files, each with its own row 25
        assert held == wanted(HELD)
    second_file = range(50, 57) if kind == "jsonl" else range(0)
    assert list(Documents(f"{name}?rows=7")) == wanted([*range(7), *second_file])
    assert [d.text for d in Documents(f"{name}?column=source&rows=2")] == (["a", "b"] * (2 if second_file else 1))
    (tokens, *_) = Documents(f"{name}?column=ids")
    assert tokens.ids.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"has no column 'body' \(its columns: 'text', 'source'.*\?column=NAME"):
        list(Documents(f"{name}?column=body"))
    with pytest.raises(ValueError, match="column 'n': got int 0; wanted a string"):
        list(Documents(f"{name}?column=n"))
    record = fingerprint.of_text(name)
    assert record == fingerprint.of_text(name) and record["text"] == name and len(record["sha256"]) == 16


def test_a_train_split_of_a_dataset_starts_again_in_its_middle(tmp_path):
    name = write(tmp_path, "parquet")
    rows = list(Documents(name, "train").read())
    assert list(Documents(name, "train").read(*rows[40][:2])) == rows[40:]


def test_files_of_a_folder_and_another_order_of_the_parts(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jsonl").write_text(json.dumps({"text": f"file {i}"}))
    (tmp_path / "notes.pdf").write_text("not read")
    documents = Documents(tmp_path)
    assert [d.text for d in documents] == ["file 0", "file 1", "file 2"]
    assert [(p, d.text) for p, _, d in documents.read(1, 0, [2, 0, 1])] == [(1, "file 0"), (2, "file 1")]
    with pytest.raises(FileNotFoundError, match=r"text: no file fits '.*\*\.parquet'"):
        Documents(tmp_path / "*.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is a folder without a file of text; wanted one with files of .jsonl"):
        Documents(tmp_path / "empty")


def test_one_file_of_json_lines_is_split_as_before(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)))
    assert load_documents(path, "held_out") == wanted([60, 61])  # 2 % of 60 of each source: the middle one
    rows = list(Documents(path, "train").read())
    assert list(Documents(path, "train").read(*rows[70][:2])) == rows[70:]


def test_plain_text_is_cut_between_paragraphs(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_text, "LONGEST", 100)
    paragraphs = [f"paragraph {i} of some length, to be read\n\n" for i in range(20)]
    (tmp_path / "book.txt.gz").write_bytes(gzip.compress("".join(paragraphs).encode()))
    documents = list(Documents(tmp_path / "book.txt.gz"))
    assert "".join(d.text for d in documents) == "".join(paragraphs)
    assert len(documents) > 5 and all(d.text.lstrip("\n").startswith("paragraph") for d in documents)
    (tmp_path / "short.md").write_text("\ufeffשלום\n", encoding="utf-8")
    assert list(Documents(tmp_path / "short.md")) == [Document("text", "שלום\n")]
    (tmp_path / "latin.txt").write_bytes("one\ncafé\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt', line 2, is not UTF-8 \(byte 0xe9 at column 3\); .*iconv"):
        list(Documents(tmp_path / "latin.txt"))
    (tmp_path / "cut.txt.gz").write_bytes((tmp_path / "book.txt.gz").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cut.txt.gz' is damaged or cut short after line \d+ .*whole .gz file"):
        list(Documents(tmp_path / "cut.txt.gz"))


def test_an_array_of_tokens_is_packed_like_text(tmp_path):
    model = tiny_model()
    ids = np.array([model.encode("the quick brown fox")[:4]] * 30, np.uint16)
    np.save(tmp_path / "ids.npy", ids)
    rows = ms.pack_rows(ms.documents(tmp_path / "ids.npy"), model, 9).tokens
    assert rows[0].tolist() == [model.bos_id, *ids[0], model.bos_id, *ids[0][:3]]
    np.save(tmp_path / "ids.npy", np.zeros(4))
    with pytest.raises(ValueError, match=r"holds float64 \[4\]; wanted integers \[documents, tokens\]"):
        list(Documents(tmp_path / "ids.npy"))


def test_a_damaged_parquet_file_is_refused(tmp_path):
    name = write(tmp_path, "parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    for damaged in (content[:-30], content[:40], content[:200] + b"\0" * 200 + content[400:]):
        (tmp_path / "t.parquet").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"t.parquet' is damaged or cut short \(.*whole Parquet file"):
            list(Documents(name))


def test_a_column_of_bytes_is_not_taken_for_token_ids(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": [b"a text without its type"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column 'text': got bytes b'a text .*; wanted a string"):
        list(Documents(tmp_path / "t.parquet"))


def test_datasets_in_memory_and_streams(tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(RECORDS)
    assert list(ms.documents(dataset)) == wanted()
    stream = dataset.to_iterable_dataset(num_shards=3)
    assert list(ms.documents(stream, "held_out")) == wanted(HELD)
    assert [d.text for d in ms.documents(stream, column="source")][:2] == ["a", "b"]
    assert next(Documents(stream).read(0, 77))[1:] == (77, wanted([77])[0])
    with pytest.raises(ValueError, match=r"'a dataset in memory' is fetched as it is read .*\?rows=N .*--stream"):
        list(stream_documents(stream, "all"))
    assert len(list(stream_documents(dataset, "all"))) == COUNT
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    assert list(Documents(f"hf:{tmp_path / 'data'}?split=train")) == wanted()
    with pytest.raises(ValueError, match=r"could not be opened \(.*\?name=CONFIGURATION"):
        Documents(f"hf:{tmp_path / 'data'}?split=other")

    def breaking():
        yield RECORDS[0]
        raise ConnectionError("the network is gone")

    broken = datasets.IterableDataset.from_generator(breaking)
    with pytest.raises(ValueError, match=r"row 1 could not be read \(.*the network is gone"):
        list(Documents(broken))


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    names = [write(tmp_path, "parquet"), f"hf:{tmp_path}"]
    for package in ("pyarrow", "datasets"):
        monkeypatch.setitem(sys.modules, package, None)
    for name, package in zip(names, ("pyarrow", "datasets"), strict=True):
        with pytest.raises(ImportError, match=rf"wanted the package {package}, .*`pip install 'monosem\[data\]'`"):
            list(Documents(name))


@pytest.mark.parametrize(
    "name, message",
    [
        ("t.jsonl?colum=x", "got the option 'colum'; wanted column, source, rows"),
        ("t.jsonl?name=x", "got the option 'name'; wanted column, source, rows"),
        ("t.jsonl?rows=0", "got rows=0; wanted a number of rows, at least 1"),
        ("t.jsonl?column=", "got no value for 'column'"),
        ("hf:a/b?streaming=maybe", "got streaming=maybe; wanted true or false"),
        ("hf:?split=x", "names no dataset; wanted hf:OWNER/NAME"),
    ],
)
def test_bad_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        parse(name)


def test_names_are_written_as_they_are_read(tmp_path, monkeypatch):
    for name in ("sample", "a.jsonl", "data/?.jsonl", "x.parquet?column=my text&rows=5"):
        assert str(parse(name)) == name
    hub = parse("hf:org/data?name=en%26more&split=test&streaming=false")
    assert (hub.name, hub.split, hub.streaming) == ("en&more", "test", False)
    assert parse(str(hub)) == hub == hub.absolute()
    monkeypatch.chdir(tmp_path)
    assert str(parse("x.parquet?column=body").absolute()) == f"{tmp_path}/x.parquet?column=body"


def test_a_fingerprint_of_several_files_changes_with_any_of_them(tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}.jsonl").write_text(json.dumps({"text": f"file {i}"}))
    for whole in (1 << 30, 1):
        monkeypatch.setattr(fingerprint, "_WHOLE_TEXT", whole)
        before = fingerprint.of_text(tmp_path)
        (tmp_path / "1.jsonl").write_text(json.dumps({"text": f"File {whole}"}))
        after = fingerprint.of_text(tmp_path)
        assert before["sha256"] != after["sha256"]


def test_a_conversation_by_a_real_template():
    """Special tokens that the template writes are tokens; the BOS that it begins with is laid once."""
    transformers = pytest.importorskip("transformers")
    own = tiny_model()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=own.tokenizer, bos_token="<|bos|>", additional_special_tokens=["<|end|>"]
    )
    tokenizer.chat_template = "<|bos|>{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"

    class Chatting:
        name, bos_id, d_vocab = "chatting", own.bos_id, 301

        def __init__(self):
            self.tokenizer = tokenizer

    messages = [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "runs"}]
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    expected = [*own.encode("user: the fox"), end, *own.encode("assistant: runs"), end]
    assert ids_of(ChatDocument("s", messages), Chatting()).tolist() == expected


def test_a_table_of_text(tmp_path):
    rows = 'text,source,n\n"two\nlines, one field",a,1\n,a,2\n"a ""word""",b,3\n'
    (tmp_path / "t.csv").write_text("\ufeff" + rows, encoding="utf-8")
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"source\ttext\na\ttwo\nb\tthree\n"))
    assert list(Documents(tmp_path / "t.csv")) == [Document("a", "two\nlines, one field"), Document("b", 'a "word"')]
    assert [d.text for d in Documents(tmp_path)][2:] == ["two", "three"]
    assert [row for _, row, _ in Documents(tmp_path / "t.csv").read(0, 1)] == [2]
    assert [d.source for d in Documents(f"{tmp_path / 't.csv'}?source=n&column=source")] == ["1", "2", "3"]
    long = "x" * 200_000
    (tmp_path / "long.csv").write_text(f"text\n{long}\n")
    assert [d.text for d in Documents(tmp_path / "long.csv")] == [long]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; wanted a table with a line of column names"),
        (b"text,source\na\n", "row 1 has another number of fields than the 2 columns"),
        (b"text,source\na,b,c\n", "row 1 has another number of fields than the 2 columns"),
        (b"text\nfine\n\xff\n", "is not UTF-8"),
        (b"body\nx\n", r"has no column 'text' \(its columns: 'body'\)"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(Documents(tmp_path / "t.csv"))
