"""The extractors behind the sample text, on tiny files of each format."""

import gzip
import struct
import sys
import zlib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import extract_text as extract


def test_pieces_lose_nothing_and_keep_to_the_size():
    text = "\n\n".join("word " * 60 + "\nline" * (i % 5) for i in range(50))
    cut = list(extract.pieces(text, 1000))
    assert "\n\n".join(cut) == text
    assert all(len(p) <= 1000 + 400 for p in cut) and all(len(p) >= 1000 for p in cut[:-1])
    sentences = "A sentence of some length. " * 300
    cut = list(extract.pieces(sentences, 1000))
    assert ". ".join(cut) == sentences and max(map(len, cut)) < 1100


def test_read(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress("é\r\n".encode()))
    assert extract.read(tmp_path / "a.gz") == "é\n"
    with pytest.raises(FileNotFoundError, match=r"nothing matches '\*.txt'"):
        extract.files(tmp_path, ["*.txt"])


def test_html_text_without_navigation_and_in_one_script(tmp_path):
    for i in range(5):
        page = f"<title>עמוד {i}</title><script>var x;</script><p>Next page</p>"
        page += f"<p>שלום\n עולם {i}</p><p>Only English {i}</p>"
        (tmp_path / f"{i}.html").write_text(page)
    paths = extract.files(tmp_path, ["*.html"])
    assert list(extract.html_text("hebrew")(paths))[1] == "עמוד 1\nשלום עולם 1"
    assert list(extract.html_text(None)(paths))[1] == "עמוד 1\nשלום עולם 1\nOnly English 1"


def test_written_in():
    assert extract.written_in("שלום רב ועוד file.txt", "hebrew") and not extract.written_in(
        "the word שלום here", "hebrew"
    )
    assert extract.written_in("漢字", "japanese") and not extract.written_in("123", "arabic")


def test_catalogue(tmp_path):
    strings = ["Content-Type: text/plain", "ملف\0ملفات", "File", "تحرير"]
    raw, table, at = b"", b"", 28 + 16 * len(strings)
    for s in strings:
        table += struct.pack("<2I", len(s.encode()), at + len(raw))
        raw += s.encode() + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(strings), 28, 28 + 8 * len(strings), 0, 0)
    (tmp_path / "x.mo").write_bytes(head + table + table + raw)
    (only,) = extract.catalogue("arabic")([tmp_path / "x.mo"])
    assert sorted(only.split("\n")) == sorted(["ملف", "ملفات", "تحرير"])


def test_fortunes(tmp_path):
    (tmp_path / "f").write_text("\x1b[32mone\x1b[m\n%\ntwo 50% off\n%\n")
    assert list(extract.fortunes([tmp_path / "f"])) == ["one\n\ntwo 50% off"]


def test_sword(tmp_path):
    folder = tmp_path / "ztext"
    folder.mkdir()
    verses = [b"<q>In the beginning</q><note>a note</note>", b"<title>Head</title>God said.<lb/>Light"]
    block = b"".join(verses)
    packed = zlib.compress(block)
    (folder / "ot.bzz").write_bytes(packed)
    (folder / "ot.bzs").write_bytes(struct.pack("<III", 0, len(packed), len(block)))
    entries = [(0, 0, 0), (0, 0, len(verses[0])), (0, len(verses[0]), len(verses[1]))]
    (folder / "ot.bzv").write_bytes(b"".join(struct.pack("<IIH", *e) for e in entries))
    assert list(extract.sword([folder / "ot.bzz"])) == ["In the beginning\nGod said.\nLight"]


def test_fasta(tmp_path):
    (tmp_path / "x.fa").write_text("".join(f">r{i}\n{'acgt' * 20}\n" for i in range(200)))
    records = list(extract.fasta([tmp_path / "x.fa"]))
    assert len(records) == 5 and records[0].startswith(">r7\n" + "acgt" * 12 + "ac\ngt")
    assert records[2] == "\n".join(["ACGT" * 12 + "AC", "GTACGTACGTACGTACGTACGTACGTACGT"] * 2)


def test_base64_and_certificates(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.crt").write_text(f"-----BEGIN {i}\n")
    assert list(extract.certificates(extract.files(tmp_path, ["*.crt"]))) == [
        "-----BEGIN 0\n-----BEGIN 1\n",
        "-----BEGIN 2\n",
    ]
    (tmp_path / "x.png").write_bytes(bytes(range(256)) * 400)
    records = list(extract.encoded([tmp_path / "x.png"]))
    assert records[0].startswith("AAECAwQF") and max(map(len, records)) < 4200
