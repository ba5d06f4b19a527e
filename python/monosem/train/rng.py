"""The state of every random number generator that a stream of activations may use."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from monosem.nn.config import JsonDict


def rng_state() -> tuple[dict[str, Tensor], JsonDict]:
    """The global generators of PyTorch (CPU and every CUDA device in use), NumPy and Python: tensors, and JSON."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    name, keys, position, has_gauss, gauss = np.random.get_state()
    tensors["numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    return tensors, {"numpy": [name, position, has_gauss, gauss], "python": random.getstate()}


def set_rng_state(tensors: dict[str, Tensor], rest: JsonDict) -> None:
    """Undo every draw since ``rng_state``."""
    torch.set_rng_state(tensors["torch"])
    cuda = [tensors[f"cuda.{i}"] for i in range(sum(name.startswith("cuda.") for name in tensors))]
    if cuda and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all(cuda)
    name, position, has_gauss, gauss = rest["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = rest["python"]
    random.setstate((version, tuple(internal), gauss_next))
