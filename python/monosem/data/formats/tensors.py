"""The tensors of a file that another library wrote: each is asked for by name and shape, none is left over."""

from __future__ import annotations

import errno
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.data import sealed
from monosem.data.formats.base import ADVICE
from monosem.nn.config import JsonDict

_CHECKED = 1 << 22  # elements that are tested for NaN at a time


class Tensors:
    """Tensors by name.

    Args:
        sizes: known lengths of axes by name, such as ``{"d_in": 768}``; others are those of the first tensor that has
            an axis of that name.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> None:
        self.path, self._content, self.sizes = path, content, dict(sizes or {})
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._content

    def take(self, name: str, *axes: str) -> Tensor:
        """A tensor of floating type with these axes.

        Raises:
            ValueError: it is missing, of another shape or type, or holds NaN or Inf.
        """
        value = self._get(name)
        wanted = [self.sizes.get(axis) for axis in axes]
        fits = isinstance(value, Tensor) and value.ndim == len(axes) and value.is_floating_point()
        if not fits or any(w not in (None, size) for w, size in zip(wanted, value.shape, strict=True)):
            shape = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            known = [axis if w is None else f"{axis}={w}" for axis, w in zip(axes, wanted, strict=True)]
            turned = fits and list(value.shape) == wanted[::-1]
            raise ValueError(
                f"folder: {str(self.path)!r}, {name}: got {shape}; wanted floating [{', '.join(known)}]"
                + (", the other way round" if turned else "")
            )
        bad = sum(_count_bad(part) for part in value.reshape(-1).split(_CHECKED))
        if bad:
            raise ValueError(
                f"folder: {str(self.path)!r}, {name}: {bad:,} of {value.numel():,} entries are NaN or Inf; wanted "
                f"finite weights. {ADVICE.capitalize()}."
            )
        self.sizes.update(zip(axes, value.shape, strict=True))
        return value

    def number(self, name: str) -> float:
        """The value of a tensor of one element, or of a plain number."""
        value = self._get(name)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            what = list(value.shape) if isinstance(value, Tensor) else value
            raise ValueError(f"folder: {str(self.path)!r}, {name}: got {what!r:.100}; wanted one number")
        return value

    def other(self, name: str) -> Any:
        """What stands under a name beside tensors; None where there is no such name."""
        self._taken.add(name)
        return self._content.get(name)

    def _get(self, name: str) -> Any:
        if name not in self._content:
            there = ", ".join(sorted(map(str, self._content))) or "nothing"
            raise ValueError(f"folder: {str(self.path)!r}, {name}: got no such tensor, but {there:.300}; wanted it")
        self._taken.add(name)
        return self._content[name]

    def done(self, *ignored: str) -> None:
        """ValueError for a tensor that nobody asked for: it might change what the dictionary computes."""
        if left := sorted(map(str, self._content.keys() - self._taken - set(ignored))):
            raise ValueError(
                f"folder: {str(self.path)!r} also holds {', '.join(left)}; wanted only {', '.join(sorted(self._taken))}"
            )


def linears(
    tensors: Tensors,
    encoder: str = "encoder",
    decoder: str = "decoder",
    b_enc: str | None = None,
    b_dec: str | None = None,
) -> JsonDict:
    """The parameters of two ``nn.Linear`` of these names; biases that stand apart are named."""
    return {
        "W_enc": tensors.take(f"{encoder}.weight", "d_sae", "d_in"),
        "W_dec": tensors.take(f"{decoder}.weight", "d_in", "d_sae").T,
        "b_enc": tensors.take(b_enc or f"{encoder}.bias", "d_sae"),
        "b_dec": tensors.take(b_dec or f"{decoder}.bias", "d_in"),
    }


def matrices(tensors: Tensors) -> JsonDict:
    """The parameters of ``x·W_enc + b_enc`` and ``f·W_dec + b_dec``, under these names."""
    return {
        "W_enc": tensors.take("W_enc", "d_in", "d_sae").T,
        "W_dec": tensors.take("W_dec", "d_sae", "d_in"),
        "b_enc": tensors.take("b_enc", "d_sae"),
        "b_dec": tensors.take("b_dec", "d_in"),
    }


def _count_bad(part: Tensor) -> int:
    """Entries that are NaN or Inf: none where the sum is finite, which is quick to find."""
    if bool(part.sum(dtype=torch.float64).isfinite()):
        return 0
    return int((~part.isfinite()).sum())


def of_safetensors(path: Path, sizes: Mapping[str, int] | None = None) -> Tensors:
    """The tensors of a safetensors file."""
    return Tensors(path, sealed.read_tensors(path, "folder", ADVICE), sizes)


def of_npz(path: Path, sizes: Mapping[str, int] | None = None) -> Tensors:
    """The arrays of a NumPy archive. Raises ValueError for one that is damaged, or that holds Python objects."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"folder: {str(path)!r} is cut short or altered ({error}); {ADVICE}") from None
    return Tensors(path, arrays, sizes)


def of_pickle(path: Path, sizes: Mapping[str, int] | None = None) -> Tensors:
    """The dictionary in a file of ``torch.save``.

    Only tensors, numbers and strings are read. A file that names other Python objects is refused: reading it would run
    their code.

    Raises:
        ValueError: such a file, a damaged one, or one that holds no dictionary.
    """
    with path.open("rb") as opened:
        is_zip = opened.read(4) == b"PK\x03\x04"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a place outside of the file was read
            raise
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and named:
            raise ValueError(
                f"folder: {str(path)!r} names the Python object {named[1]}, whose code would run when the file is "
                "read; wanted tensors, numbers and strings alone. It is not read. If you trust the file, load it with "
                "the library that wrote it and save its state_dict()."
            ) from None
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"folder: {str(path)!r} is cut short or altered ({first:.200}); {ADVICE}") from None
    if not isinstance(content, dict):
        raise ValueError(f"folder: {str(path)!r} holds a {type(content).__name__}; wanted tensors by name")
    return Tensors(path, content, sizes)


def peek(path: Path) -> set[str]:
    """The names in a file of ``torch.save``, for ``recognise``; empty where it is none, or is refused."""
    if path.suffix not in (".pt", ".pth") or not path.is_file():
        return set()
    try:
        return set(map(str, of_pickle(path)._content))
    except (OSError, ValueError):
        return set()
