"""A safetensors file that several processes write, each its rows: no process needs all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monosem.data import files

_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


def create(path: Path, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> None:
    """Make the file, with its header and all its space; the content of each tensor is to be written.

    Raises:
        OSError: the disk is full, for example.
    """
    header, at = {}, 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: -item[1][0].itemsize):
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.flush()
        files.allocate(out.fileno(), out.tell() + at)


def write(path: Path, name: str, first: int, rows: Tensor) -> None:
    """Write the rows of a tensor from row ``first`` on; the whole of a 0-dim one."""
    with path.open("r+b") as out:
        size = int.from_bytes(out.read(8), "little")
        start, _ = json.loads(out.read(size))[name]["data_offsets"]
        per_row = math.prod(rows.shape[1:]) * rows.element_size()
        out.seek(8 + size + start + first * per_row)
        out.write(np.ascontiguousarray(rows.contiguous().reshape(-1).view(torch.uint8).numpy()).data)
