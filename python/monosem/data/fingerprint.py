"""Digests of arrays, files and models, which tell data of the same name apart, and their descriptions.

A fingerprint is a flat dict that JSON keeps. Two are of the same data when every field that both have is equal; a
field that one of them lacks (it was written by an older version) says nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.data.hub_datasets import digest_of, open_dataset
from monosem.data.text_files import kind_of, paths_of
from monosem.data.text_spec import parse

_CHUNK = 1 << 24
# A larger model is identified by evenly spaced parts of each weight: training changes nearly all of them.
_WHOLE_MODEL = 1 << 30
_PART = 1 << 16
_WHOLE_TEXT = 1 << 30  # bytes of files whose whole content is read; of one of JSON lines it always is
_ENDS = 1 << 20  # bytes at either end of larger ones


def of_array(x: Tensor | np.ndarray) -> dict[str, Any]:
    """Type, shape and digest of the whole content of an array."""
    x = torch.from_numpy(np.asarray(x)) if not isinstance(x, Tensor) else x.detach()
    digest = hashlib.sha256()
    for part in _bytes(x):
        digest.update(part)
    return {"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape), "sha256": digest.hexdigest()[:16]}


def of_file(path: str | Path) -> dict[str, Any]:
    """Size and digest of a file's content."""
    digest, size = hashlib.sha256(), 0
    with Path(path).open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()[:16]}


def of_paths(paths: Sequence[Path]) -> dict[str, Any]:
    """Size and digest of files together; of more than 1 GiB, of the ends of each file."""
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"text: no file {str(path)!r}; wanted JSON lines, each with a 'text' field")
    if len(paths) == 1 and (paths[0].stat().st_size <= _WHOLE_TEXT or kind_of(paths[0]) == ".jsonl"):
        return of_file(paths[0])
    sizes, digest = [path.stat().st_size for path in paths], hashlib.sha256()
    whole = sum(sizes) <= _WHOLE_TEXT
    for path, size in zip(paths, sizes, strict=True):
        digest.update(f"{path.name} {size} ".encode())
        if whole:
            digest.update(of_file(path)["sha256"].encode())
            continue
        with path.open("rb") as opened:
            digest.update(opened.read(_ENDS))
            opened.seek(max(0, size - _ENDS))
            digest.update(opened.read(_ENDS))
    return {"bytes": sum(sizes), "sha256": digest.hexdigest()[:16]}


def of_text(text: str | Path) -> dict[str, Any]:
    """A text by name, size and digest; ``"sample"`` is the one that ships with monosem.

    Raises:
        FileNotFoundError: no such file.
    """
    spec = parse(text)
    if spec.of_hub:
        return of_dataset(open_dataset(spec), str(spec))
    return {"text": str(text), **of_paths(paths_of(spec))}


def of_dataset(dataset: Any, name: str) -> dict[str, Any]:
    """A dataset of Hugging Face's library by name and digest; of the name, where the library knows no other."""
    return {"text": name, "sha256": digest_of(dataset) or hashlib.sha256(name.encode()).hexdigest()[:16]}


def of_model(model: object) -> str | None:
    """Kind and digest of the weights of a language model, or None for an object that shows none.

    The name does not count: a folder may have been moved, and another model may have come under an old name. Libraries
    lay the weights of one model out differently: digests of two kinds cannot be compared. Of more than 1 GiB, evenly
    spaced parts of each weight are read.
    """
    if several := getattr(model, "models", None):  # seen through the hooks of one dictionary
        return of_models(several)
    if own := getattr(model, "digest", None):  # of vectors that were computed elsewhere
        return own
    module = getattr(model, "module", None)
    if not isinstance(module, torch.nn.Module):
        return None
    weights = module.state_dict()
    whole = sum(w.numel() * w.element_size() for w in weights.values() if isinstance(w, Tensor)) <= _WHOLE_MODEL
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        if not isinstance(weight, Tensor):
            continue
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        flat = weight.detach().reshape(-1)
        if not whole and len(flat) > _PART:
            flat = flat[
                torch.linspace(0, len(flat) - 1, _PART, dtype=torch.float64, device="cpu").long().to(flat.device)
            ]
        for part in _bytes(flat):
            digest.update(part)
    kind = getattr(module, "fingerprint_name", type(module).__name__)
    return f"{kind} {digest.hexdigest()[:16]}"


def of_models(models: Sequence[object]) -> str | None:
    """``of_model`` of one; of several, their kinds and their digests joined. None where one of them shows none."""
    parts = [digest.split() for digest in map(of_model, models) if digest]
    if len(parts) < len(models):
        return None
    return " ".join("+".join(column) for column in zip(*parts, strict=True))


def same_weights(saved: str | None, mine: str | None) -> bool | None:
    """Whether two results of ``of_model`` are equal; None where they cannot be compared."""
    if not saved or not mine or saved.split()[0] != mine.split()[0]:
        return None
    return saved == mine


def different(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """The fields that both have and that are not equal; a model's name counts only where no digest of it is known."""
    names = [name for name in mine if name in saved and saved[name] != mine[name]]
    same = same_weights(saved.get("weights"), mine.get("weights"))
    drop = {True: "model", None: "weights"}.get(same)
    return [name for name in names if name != drop]


def words(record: Mapping[str, Any]) -> str:
    """A fingerprint in one line: ``"tensor, shape [5000, 32], sha256 1f0c…"``."""
    rest = [f"{name} {value}" for name, value in record.items() if name != "kind" and value is not None]
    return ", ".join([str(record.get("kind", "data")), *rest])


def _bytes(x: Tensor) -> Iterator[memoryview]:
    """The content of a tensor in parts, wherever it lies."""
    flat = x.reshape(-1)
    step = max(1, _CHUNK // max(1, x.element_size()))
    for start in range(0, len(flat), step):
        part = flat[start : start + step].cpu().contiguous()
        yield part.view(torch.uint8).numpy().data
