"""Datasets of Hugging Face's library ``datasets``: by name, saved in a folder, or in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monosem.data.extras import needed
from monosem.data.records import SOURCE, TEXT, document_of
from monosem.data.text import AnyDocument
from monosem.data.text_spec import HUB, TextSpec


def is_dataset(value: object) -> bool:
    """Whether this is a ``Dataset`` or an ``IterableDataset``; the library need not be installed."""
    return type(value).__module__.partition(".")[0] == "datasets" and hasattr(value, "features")


def open_dataset(spec: TextSpec) -> Any:
    """The dataset that ``hf:NAME`` names; ``hf:FOLDER`` is one that ``save_to_disk`` wrote, or a folder of data files.

    Raises:
        ImportError: the library is not installed.
        ValueError: no such dataset, configuration or split, or no network.
    """
    datasets = needed("datasets", f"text: {str(spec)!r} is a dataset of Hugging Face")
    name = spec.place.removeprefix(HUB)
    try:
        if _is_saved(Path(name)):
            saved = datasets.load_from_disk(name)
            return saved[spec.split] if hasattr(saved, "keys") else saved
        return datasets.load_dataset(
            name, spec.name, split=spec.split, revision=spec.revision, streaming=spec.streaming
        )
    except Exception as error:  # of the library, of the network, of the file system
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise ValueError(
            f"text: {str(spec)!r} could not be opened ({type(error).__name__}: {reason:.300}); wanted the name of a "
            "dataset, with ?name=CONFIGURATION and &split=SPLIT where it has several. Check the name and the network."
        ) from None


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def read_dataset(
    dataset: Any, where: str, column: str = TEXT, source: str = SOURCE, first: int = 0
) -> Iterator[tuple[int, AnyDocument | None]]:
    """(row, document) from row ``first`` on.

    Raises:
        ValueError: no such column, one that holds no documents, or rows that cannot be read.
    """
    names = dataset.column_names  # None where a stream does not know them
    if names is not None and column in names:
        dataset = dataset.select_columns([name for name in dict.fromkeys((column, source)) if name in names])
    rows = iter(dataset.skip(first))
    row = first
    while True:
        try:
            record = next(rows)
        except StopIteration:
            return
        except Exception as error:
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise ValueError(
                f"text: {where}: row {row} could not be read ({type(error).__name__}: {reason:.300}); wanted a dataset "
                "that is whole, and a network that answers. The same command goes on from its last checkpoint."
            ) from None
        yield row, document_of(record, f"{where}, row {row}", column, source)
        row += 1


def digest_of(dataset: Any) -> str | None:
    """A digest that changes with the dataset; None where the library knows none."""
    info = getattr(dataset, "info", None)
    if (own := getattr(dataset, "_fingerprint", None)) is not None:
        return str(own)
    if info is None or not (info.download_checksums or info.splits):
        return None
    told = (info.builder_name, info.config_name, str(info.version), info.download_checksums, str(info.splits))
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
