"""Dictionaries that compute something that no kind here does: they are recognised, so that the refusal names them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from monosem.data.formats.base import Foreign, Format, Given

_CLT = re.compile(r"W_(enc|dec)_\d+\.safetensors$")


def _is_clt(path: Path) -> bool:
    return bool(_CLT.match(path.name)) if path.is_file() else (path / "W_enc_0.safetensors").is_file()


def _is_temporal(path: Path) -> bool:
    return all((path / name).is_file() for name in ("conf.yaml", "latest_ckpt.safetensors"))


def _refusing(what: str) -> Callable[[Path, Given], Foreign]:
    def read(path: Path, given: Given) -> Foreign:
        raise ValueError(f"folder: {str(path)!r} holds {what}; wanted a dictionary of one input and one output")

    return read


CROSS_LAYER = Format(
    "cross-layer transcoders",
    "W_enc_N.safetensors; refused",
    _is_clt,
    _refusing("a cross-layer transcoder, whose features write to all later layers"),
)
TEMPORAL = Format(
    "temporal SAEs",
    "conf.yaml + latest_ckpt.safetensors; refused",
    _is_temporal,
    _refusing("a temporal SAE, whose features depend on earlier tokens by attention"),
)
