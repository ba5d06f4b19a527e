"""sparsify 1.3: ``cfg.json`` and ``sae.safetensors``."""

from __future__ import annotations

from pathlib import Path

from monosem.data.exports.plain import Refused, Write, centred_bias, record, tensors, uncentred_bias
from monosem.data.formats import Foreign
from monosem.data.formats.sparsify import CONFIG, WEIGHTS

_ACTIVATIONS = {"topk": "topk", "group_max": "groupmax"}


def files_of(d: Foreign, folder: Path) -> dict[str, Write]:
    (d_sae, d_in), d_out = d.W_enc.shape, d.W_dec.shape[1]
    if d.activation not in _ACTIVATIONS:
        raise Refused(f"activation {d.activation!r}, but topk and group_max")
    if d_in != d_out:
        raise Refused(f"output of another width than its input ({d_in} → {d_out})")
    config = {
        "activation": _ACTIVATIONS[d.activation],
        "expansion_factor": max(1, d_sae // d_in),
        "normalize_decoder": not d.is_transcoder,
        "num_latents": d_sae,
        "k": d.k,
        "multi_topk": False,
        "skip_connection": d.W_skip is not None,
        "transcode": d.is_transcoder,
        "d_in": d_in,
    }
    weights = {
        "encoder.weight": d.W_enc,
        "encoder.bias": uncentred_bias(d) if d.is_transcoder else centred_bias(d),
        "W_dec": d.W_dec,
        "b_dec": d.b_dec,
        "W_skip": d.W_skip,
    }
    return {WEIGHTS: tensors(weights), CONFIG: record(config)}
