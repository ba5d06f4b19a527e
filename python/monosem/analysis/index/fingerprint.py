"""Fingerprints of dictionaries and texts."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import torch

from monosem.analysis.scan import Rows
from monosem.data import store_index
from monosem.nn.dictionary import Dictionary


def of_dictionary(sae: Dictionary) -> str:
    """Hash of a dictionary's kind, shape and parameters (a ``NeuronBasis`` has none: its kind and width say all)."""
    digest = hashlib.sha256(repr((sae.cfg.kind, sae.cfg.d_in, sae.cfg.d_sae)).encode())
    state_dict = getattr(sae, "state_dict", None)
    parameters = state_dict() if state_dict is not None else {}
    for name, value in sorted(parameters.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def of_text(rows: Rows) -> str:
    """Checksum of the tokens, the source of each, and the sources' names."""
    crc = zlib.crc32("\n".join(rows.sources).encode(), store_index.tokens_checksum(np.asarray(rows.tokens)))
    source = np.ascontiguousarray(np.asarray(rows.source), dtype=np.int32)
    return f"{zlib.crc32(source.data, crc):08x}"
