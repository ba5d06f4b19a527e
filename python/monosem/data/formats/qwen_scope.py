"""Qwen Scope: ``layerN.sae.pt`` in a repository ``SAE-Res-MODEL-WnK-L0_k``, which alone says k."""

from __future__ import annotations

import re
from pathlib import Path

from monosem.data.formats.base import Foreign, Format, Given
from monosem.data.formats.hooks import search
from monosem.data.formats.tensors import of_pickle

_NAME = re.compile(r"layer(\d+)\.sae\.pt$")


def recognise(path: Path) -> bool:
    return path.is_file() and _NAME.match(path.name) is not None


def read(path: Path, given: Given) -> Foreign:
    """TopK; nothing is taken off the encoder's input."""
    tensors = of_pickle(path)
    W_enc, b_enc = tensors.take("W_enc", "d_sae", "d_in"), tensors.take("b_enc", "d_sae")
    W_dec, b_dec = tensors.take("W_dec", "d_in", "d_sae").T, tensors.take("b_dec", "d_in")
    tensors.done()
    repository, layer = search(path, r"SAE-Res-(.+)-W\d+K-L0_(\d+)"), _NAME.match(path.name)
    assert layer is not None
    k = int(repository[2]) if repository else given.k
    if k is None:
        raise ValueError(
            f"k: {str(path)!r} does not say how many features are active per token, nor do its folders (…-L0_50); "
            "wanted k in monosem.load"
        )
    return Foreign(
        activation="topk",
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        centred=False,
        k=k,
        model=f"Qwen/{repository[1]}" if repository else None,
        hook_name=f"blocks.{layer[1]}.hook_resid_post",
        notes={"architecture": "topk", "file": path.name},
    )


QWEN_SCOPE = Format("Qwen Scope", "layerN.sae.pt", recognise, read)
