"""JSON lines: the documents of a file, and error messages for files of another kind."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

from monosem.data.text import Document
from monosem.data.unicode import check_text

_WANTED = 'JSON lines, each {"source": ..., "text": ...}, in UTF-8'
_MARK = b"\xef\xbb\xbf"  # of UTF-8, by Windows editors
_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_PANDAS = "pandas.read_{}(file).to_json(out, orient='records', lines=True)"
# First bytes of other kinds of files, their kind, and the conversion to JSON lines.
_OTHER = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", "Convert it with `iconv -f utf-32 -t utf-8`."),
    (b"\xff\xfe", "UTF-16 text", "Convert it with `iconv -f utf-16 -t utf-8`."),
    (b"\xfe\xff", "UTF-16 text", "Convert it with `iconv -f utf-16 -t utf-8`."),
    (b"PAR1", "a Parquet file", f"Convert it: {_PANDAS.format('parquet')}."),
    (b"ARROW1", "an Arrow file", f"Convert it: {_PANDAS.format('feather')}."),
    (b"PK\x03\x04", "a zip archive (or an Office file)", "Unpack it."),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "Unpack it with `zstd -d`, or pack it with gzip or xz."),
    (b"BZh", "packed with bzip2", "Unpack it with `bunzip2`, or pack it with gzip or xz."),
    (b"%PDF", "a PDF", "Extract its text."),
    (b"\x93NUMPY", "a NumPy array", "Tokens in an array are given with --tokens."),
)


def read_jsonl(path: str | Path) -> Iterator[Document]:
    """Yield the documents of a JSON-lines file, plain, ``.gz`` or ``.xz``, one at a time.

    Each line is ``{"text": ..., "source": ...}``; ``source`` may be left out (``"text"`` is then used). A mark of
    UTF-8 around a line is passed over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not UTF-8, not JSON, has no ``text``, or half of a character in it; names the file and
            the line. Or the file is something else (and which), a folder, damaged or cut short.
    """
    path = Path(path)
    _check_file(path)
    with path.open("rb") as opened:
        begin = opened.read(16)
    for magic, what, remedy in _OTHER:
        if begin.startswith(magic):
            raise ValueError(f"text: {str(path)!r} is {what}; wanted {_WANTED}. {remedy}")
    with _open(path, begin) as lines:
        number = 0
        try:
            for raw in lines:
                number += 1
                raw = raw.strip().removeprefix(_MARK).removesuffix(_MARK)  # joined files have it in the middle
                if raw:
                    yield _parse(raw, f"{path}, line {number}")
        except (lzma.LZMAError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            kind = ".xz" if isinstance(lines, lzma.LZMAFile) else ".gz"
            raise ValueError(
                f"text: {str(path)!r} is damaged or cut short after line {number} ({error}); wanted a whole {kind} "
                "file. Get it again."
            ) from None


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if ".jsonl" in p.name)
        hint = f"Name one of its files: {', '.join(inside[:3])}." if inside else "It has no .jsonl file."
        raise ValueError(f"text: {str(path)!r} is a folder; wanted one file of {_WANTED}. {hint}")
    if not path.exists():
        raise FileNotFoundError(f"text: no file {str(path)!r}; wanted {_WANTED}")
    if not path.is_file():  # it is read twice
        raise ValueError(f"text: {str(path)!r} is a pipe or a device; wanted a file. Write the text to one first.")


def _open(path: Path, begin: bytes) -> BufferedIOBase:
    """By what a file holds; by its name where it begins like none of these."""
    if begin.startswith(_GZIP) or path.suffix == ".gz":
        return gzip.open(path, "rb")
    return lzma.open(path, "rb") if begin.startswith(_XZ) or path.suffix == ".xz" else path.open("rb")


def _parse(raw: bytes, where: str) -> Document:
    try:
        record = json.loads(raw.decode("utf-8"), parse_int=_integer)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text: {where} is not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start}); "
            "wanted UTF-8 JSON lines. Convert the file, for example with `iconv -t utf-8`."
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"text: {where} is not JSON ({error}); wanted one object per line{_layout(raw)}") from None
    except RecursionError:
        raise ValueError(f"text: {where} nests lists or objects too deeply to be read; wanted {_WANTED}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        given = f" (its fields: {', '.join(map(ascii, list(record)[:6]))})" if isinstance(record, dict) else ""
        raise ValueError(
            f'text: {where} has no string field \'text\'{given}; wanted {{"source": ..., "text": ...}}{_layout(raw)}'
        )
    source = record.get("source")
    document = Document("text" if source is None else str(source), record["text"])
    check_text(document.text, f"text: {where}")
    check_text(document.source, f"text: the source in {where}")
    return document


def _integer(digits: str) -> float:
    """Python refuses integers of more than 4,300 digits; no field that is read here is one."""
    return int(digits) if len(digits) < 300 else float(digits)


def _layout(raw: bytes) -> str:
    """The remedy for JSON in another layout, or for text that is not JSON."""
    if b"\0" in raw[:8]:
        return ". It looks like UTF-16: convert it with `iconv -f utf-16 -t utf-8`"
    begin = raw.lstrip()[:1]
    if begin == b"[":
        return ". It is a JSON array: `jq -c '.[]'` writes one element per line"
    if begin == b"{":
        return ". Where an object spans several lines, `jq -c .` writes it on one"
    return ""
