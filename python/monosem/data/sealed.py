"""JSON files with checksums of themselves and of the files beside them that they describe.

Such a file has two further fields: ``"digests"``, the SHA-256 of the bytes of each file that belongs to it, and
``"sha256"``, that of its own content (as JSON with sorted keys, without this field). Both are checked when it is read.
A file that has neither was written by an older version, and is loaded with a note.

SHA-256 takes about a second for 1.5 GB where the processor has instructions for it, 0.4 GB where not: files that are
read whole anyway are checked before, large ones that are mapped into memory when they are first asked for.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from monosem.data import files, remote

_CHUNK = 1 << 22


def digest(path: Path) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    sha256 = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()


def write(
    path: Path,
    record: Mapping[str, Any],
    beside: Mapping[str, Callable[[Path], object]] | None = None,
    there: Iterable[str] = (),
    *,
    indent: int | None = 1,
    allow_nan: bool = True,
) -> None:
    """Write a JSON object with its digests, together with the files ``beside`` it: all or none.

    Args:
        beside: {file name: what writes it}.
        there: names of files in the same folder that are written already and belong to it too.
    """
    digests = {name: digest(path.parent / name) for name in there}

    def noting(name: str, write_file: Callable[[Path], object]) -> Callable[[Path], object]:
        def writer(part: Path) -> None:
            write_file(part)
            digests[name] = digest(part)

        return writer

    def write_record(part: Path) -> None:
        # As it will be read: lists for tuples, strings for keys.
        body = json.loads(json.dumps(dict(record) | {"digests": digests}, allow_nan=allow_nan))
        text = json.dumps(body | {"sha256": _own(body)}, indent=indent, ensure_ascii=False)
        part.write_text(text + "\n", encoding="utf-8")

    writers = {path.parent / name: noting(name, write_file) for name, write_file in (beside or {}).items()}
    files.write_together(writers | {path: write_record})


def read(path: Path, argument: str, expected: str, *, note: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """(content, digests) of a JSON object that ``write`` wrote; the digests are empty for an older file.

    Args:
        argument: what the path came from, for errors.
        expected: what should stand there, for errors.
        note: warn of an older file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no JSON object, or was altered.
    """
    record = read_json(path, argument, expected)
    own, digests = record.pop("sha256", None), record.get("digests")
    if own is None and digests is None:
        if note:
            warnings.warn_explicit(
                f"{argument}: {str(path)!r} was written by a version without checksums: it is unknown whether "
                "it or its files were altered",
                RuntimeWarning,
                __file__,
                0,
            )
        return record, {}
    if own != _own(record) or not isinstance(digests, dict):
        raise ValueError(
            f"{argument}: {str(path)!r} was altered (its checksum differs); wanted {expected}. Restore it or make it "
            'again. (If you changed it on purpose: remove "digests" and "sha256" from it.)'
        )
    del record["digests"]
    return record, digests


def check(path: Path, digests: Mapping[str, str], argument: str, advice: str) -> None:
    """ValueError, naming the file, unless it is what was written; a name without digest is taken as it is."""
    if path.name in digests and digest(path) != digests[path.name]:
        raise ValueError(f"{argument}: {str(path)!r} is cut short or altered (its checksum differs); {advice}")


def read_json(path: str | Path, argument: str, expected: str) -> dict[str, Any]:
    """A JSON object from a file, or an error that says which file and what it should be.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or another kind of value.
    """
    path = remote.as_path(path, argument)
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: no file {str(path)!r}; wanted {expected}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, or a number of 5,000 digits
        raise ValueError(
            f"{argument}: {str(path)!r} is cut short or altered, it is not JSON ({error}); wanted {expected}"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{argument}: {str(path)!r} holds a {type(content).__name__}; wanted {expected}")
    return content


def read_tensors(path: Path, argument: str, advice: str, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError, naming it, when it is none."""
    try:
        return load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"{argument}: {str(path)!r} is cut short or altered ({error}); {advice}") from None


def tensor_shapes(path: Path, argument: str, advice: str) -> dict[str, tuple[str, list[int]]]:
    """(dtype as safetensors writes it, shape) of each tensor of a safetensors file, without reading it."""
    try:
        with safe_open(path, "pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
            return {name: (part.get_dtype(), list(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(f"{argument}: {str(path)!r} is cut short or altered ({error}); {advice}") from None


def copy_tensors(path: Path, into: Mapping[str, Tensor], block: int = 1 << 24) -> None:
    """Fill tensors from a safetensors file, a block of bytes at a time.

    The file is opened anew for each block: its pages count as memory of this process as long as it is mapped, and a
    dictionary would take twice its size while it is loaded.
    """
    for name, tensor in into.items():
        rows = tensor.shape[0] if tensor.ndim else 0
        step = max(1, block * rows // max(1, tensor.numel() * tensor.element_size()))
        for start in range(0, rows, step) if rows else (None,):
            with torch.device("cpu"), safe_open(path, "pt") as opened:  # whatever the default device of the process
                if start is None:
                    tensor.copy_(opened.get_tensor(name))
                else:
                    tensor[start : start + step].copy_(opened.get_slice(name)[start : start + step])


def read_metadata(path: Path, argument: str, advice: str) -> dict[str, str]:
    """The string metadata of a safetensors file; ValueError, naming it, when it is none."""
    try:
        with safe_open(path, "pt") as opened:
            return opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{argument}: {str(path)!r} is cut short or altered ({error}); {advice}") from None


def _own(record: Mapping[str, Any]) -> str:
    """Digest of the content of a record, independent of its layout: equal when written and when read back."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
