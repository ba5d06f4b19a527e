"""Parquet files: the documents of a column, a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from monosem.data.extras import needed
from monosem.data.records import SOURCE, TEXT, document_of
from monosem.data.text import AnyDocument

MAGIC = b"PAR1"
_AT_ONCE = 256  # rows


def read_parquet(
    path: Path, column: str = TEXT, source: str = SOURCE, first: int = 0
) -> Iterator[tuple[int, AnyDocument | None]]:
    """(row, document) from row ``first`` on; whole row groups before it are not read.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: no such column, one that holds no documents, or a damaged file.
    """
    arrow = needed("pyarrow", f"text: {str(path)!r} is a Parquet file")
    parquet = needed("pyarrow.parquet", f"text: {str(path)!r} is a Parquet file")
    try:
        with parquet.ParquetFile(str(path)) as opened:
            names = opened.schema_arrow.names
            wanted = dict.fromkeys((column, source)) if column in names else names
            columns = [name for name in wanted if name in names]
            row = 0
            for group in range(opened.num_row_groups):
                count = opened.metadata.row_group(group).num_rows
                if row + count <= first:
                    row += count
                    continue
                for batch in opened.iter_batches(_AT_ONCE, row_groups=[group], columns=columns):
                    if row + len(batch) > first:
                        for at, record in enumerate(batch.to_pylist(), row):
                            if at >= first:
                                yield at, document_of(record, f"{path}, row {at}", column, source)
                    row += len(batch)
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"text: {str(path)!r} is damaged or cut short ({reason}); wanted a whole Parquet file. Get it again."
        ) from None
