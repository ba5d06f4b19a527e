"""JSON lines: the documents of a file, and error messages for files of another kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from monosem.data.compressed import DAMAGE, damaged, open_unpacked
from monosem.data.records import SOURCE, TEXT, document_of
from monosem.data.text import AnyDocument

_WANTED = 'JSON lines, each {"source": ..., "text": ...}, in UTF-8'
_MARK = b"\xef\xbb\xbf"  # of UTF-8, by Windows editors
_PANDAS = "pandas.read_{}(file).to_json(out, orient='records', lines=True)"
# First bytes of other kinds of files, their kind, and the conversion to JSON lines.
_OTHER = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", "Convert it with `iconv -f utf-32 -t utf-8`."),
    (b"\xff\xfe", "UTF-16 text", "Convert it with `iconv -f utf-16 -t utf-8`."),
    (b"\xfe\xff", "UTF-16 text", "Convert it with `iconv -f utf-16 -t utf-8`."),
    (b"PAR1", "a Parquet file", f"Convert it: {_PANDAS.format('parquet')}."),
    (b"ARROW1", "an Arrow file", f"Convert it: {_PANDAS.format('feather')}."),
    (b"PK\x03\x04", "a zip archive (or an Office file)", "Unpack it."),
    (b"BZh", "packed with bzip2", "Unpack it with `bunzip2`, or pack it with gzip, xz or zstd."),
    (b"%PDF", "a PDF", "Extract its text."),
    (b"\x93NUMPY", "a NumPy array", "Tokens in an array are given with --tokens."),
)


def read_jsonl(path: str | Path, column: str = TEXT, source: str = SOURCE) -> Iterator[AnyDocument]:
    """Yield the documents of a JSON-lines file, plain, ``.gz``, ``.xz`` or ``.zst``, one at a time.

    Each line is ``{"text": ..., "source": ...}``; ``source`` may be left out (``"text"`` is then used). A mark of
    UTF-8 around a line is passed over. Of other columns, a conversation or tokens are read too (``data/records.py``).

    Args:
        column, source: the fields of the text and of its label.

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
    with open_unpacked(path, begin) as lines:
        number = 0
        try:
            for raw in lines:
                number += 1
                raw = raw.strip().removeprefix(_MARK).removesuffix(_MARK)  # joined files have it in the middle
                if raw and (document := _parse(raw, f"{path}, line {number}", column, source)) is not None:
                    yield document
        except DAMAGE as error:
            raise damaged(path, begin, f"line {number}", error) from None


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if ".jsonl" in p.name)
        hint = f"Name one of its files: {', '.join(inside[:3])}." if inside else "It has no .jsonl file."
        raise ValueError(f"text: {str(path)!r} is a folder; wanted one file of {_WANTED}. {hint}")
    if not path.exists():
        raise FileNotFoundError(f"text: no file {str(path)!r}; wanted {_WANTED}")
    if not path.is_file():  # it is read twice
        raise ValueError(f"text: {str(path)!r} is a pipe or a device; wanted a file. Write the text to one first.")


def _parse(raw: bytes, where: str, column: str, source: str) -> AnyDocument | None:
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
    plain = column == TEXT and isinstance(record, dict) and not isinstance(record.get(TEXT), (str, list))
    if not isinstance(record, dict) or plain:
        given = f" (its fields: {', '.join(map(ascii, list(record)[:6]))})" if isinstance(record, dict) else ""
        hint = " Another field of text is named by FILE?column=NAME." if plain and record else ""
        raise ValueError(
            f'text: {where} has no string field \'text\'{given}; wanted {{"source": ..., "text": ...}}{_layout(raw)}.'
            + hint
        )
    return document_of(record, where, column, source)


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
