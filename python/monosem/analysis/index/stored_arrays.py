"""The arrays of an index on disk: mapped when it is opened, each checked at first use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monosem.data import files, sealed

ADVICE = "build the index again (remove its folder)"


class StoredArrays(Mapping[str, Tensor]):
    """{name: tensor} of ``<name>.npy`` in a folder.

    Opening reads nothing; the first look at an array reads it once, to compare its digest: about a second for 1.5 GB.

    Raises:
        FileNotFoundError, ValueError: a file is missing, cut short or altered; names it.
    """

    def __init__(self, folder: Path, names: list[str], digests: Mapping[str, str]) -> None:
        self._folder, self._digests = folder, digests
        # Copy-on-write: PyTorch requires writable memory, and the file must not change.
        self._arrays = {n: files.read_array(self._path(n), "folder", ADVICE, mode="c") for n in map(str, names)}
        self._checked: dict[str, Tensor] = {}

    def numpy(self, name: str) -> np.ndarray:
        """A checked array for NumPy: PyTorch hardly supports ``uint16``."""
        sealed.check(self._path(name), self._digests, "folder", ADVICE)
        return self._arrays[name]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._checked:
            try:
                self._checked[name] = torch.from_numpy(self.numpy(name))
            except TypeError as error:
                raise ValueError(f"folder: {str(self._path(name))!r} is altered ({error}); {ADVICE}") from None
        return self._checked[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without reading the content."""
        return self._arrays[name].shape

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"
