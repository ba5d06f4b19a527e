"""Goodfire's dictionaries, and those of DeepSeek-R1 in their layout: ``MODEL-SAE-lN.pt``, two ``nn.Linear``."""

from __future__ import annotations

import re
from pathlib import Path

from monosem.data.formats.base import Foreign, Format, Given
from monosem.data.formats.tensors import linears, of_pickle

_NAME = re.compile(r"(?P<model>.+)-SAE-l(?P<layer>\d+)\.pth?$")
_OWNERS = {"Llama-3": "meta-llama", "DeepSeek": "deepseek-ai"}


def recognise(path: Path) -> bool:
    return path.is_file() and _NAME.match(path.name) is not None


def read(path: Path, given: Given) -> Foreign:
    """ReLU; nothing is taken off the encoder's input."""
    tensors = of_pickle(path)
    suffix = "_linear" if "encoder_linear.weight" in tensors else ""
    parameters = linears(tensors, f"encoder{suffix}", f"decoder{suffix}")
    tensors.done()
    found = _NAME.match(path.name)
    assert found is not None
    owner = next((owner for name, owner in _OWNERS.items() if found["model"].startswith(name)), None)
    return Foreign(
        activation="relu",
        **parameters,
        centred=False,
        model=f"{owner}/{found['model']}" if owner else found["model"],
        hook_name=f"blocks.{found['layer']}.hook_resid_post",
        notes={"architecture": "standard", "file": path.name},
    )


GOODFIRE = Format("Goodfire", "MODEL-SAE-lN.pt or .pth", recognise, read)
