"""Tables of text: CSV and TSV files with a line of column names, plain or packed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from monosem.data.compressed import DAMAGE, SUFFIXES, damaged, open_unpacked
from monosem.data.records import SOURCE, TEXT, document_of
from monosem.data.text import AnyDocument

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_WANTED = "a table with a line of column names, in UTF-8"
_LONGEST_FIELD = 1 << 30  # bytes; Python's own limit, 131,072, is shorter than many a document


def is_table(path: Path) -> bool:
    """By its name, that of a packed file too."""
    return _suffix(path) in _SEPARATORS


def read_csv(path: Path, column: str = TEXT, source: str = SOURCE) -> Iterator[AnyDocument | None]:
    """A document for each row of the table; None for a row without text.

    Raises:
        ValueError: it is not UTF-8, damaged, without names of columns, or a row has more or fewer fields than names.
    """
    with path.open("rb") as opened:
        begin = opened.read(16)
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    number = 0
    try:
        with open_unpacked(path, begin) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, delimiter=_SEPARATORS[_suffix(path)])
            if not table.fieldnames:
                raise ValueError(f"text: {str(path)!r} is empty; wanted {_WANTED}")
            for record in table:
                number += 1
                where = f"{path}, row {number}"
                if None in record or None in record.values():
                    raise ValueError(
                        f"text: {where} has another number of fields than the {len(table.fieldnames)} columns; wanted "
                        "one for each. A field with a separator or a line break in it needs quotes."
                    )
                value = record.get(column)
                yield document_of(record | ({column: None} if value == "" else {}), where, column, source)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text: {str(path)!r}, behind row {number}, is not UTF-8 (byte 0x{error.object[error.start]:02x}); wanted "
            f"{_WANTED}. Convert the file, for example with `iconv -t utf-8`."
        ) from None
    except csv.Error as error:
        raise ValueError(f"text: {str(path)!r}, behind row {number}: {error}; wanted {_WANTED}") from None
    except DAMAGE as error:
        raise damaged(path, begin, f"row {number}", error) from None


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in SUFFIXES else path).suffix.lower()
