"""dictionary_learning 0.1: ``ae.pt``, a state_dict, and ``config.json``."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import torch
from torch import Tensor

from monosem.data.exports.plain import Refused, Write, record, thresholds, uncentred_bias
from monosem.data.formats import Foreign
from monosem.data.formats.dictionary_learning import CONFIG, WEIGHTS


def files_of(d: Foreign, folder: Path) -> dict[str, Write]:
    if d.is_transcoder:
        raise Refused("transcoders")
    name, weights = _class_of(d)
    d_sae, d_in = d.W_enc.shape
    layer = re.search(r"\.(\d+)\.", d.hook_name or "")
    trainer = {
        "dict_class": name,
        "activation_dim": d_in,
        "dict_size": d_sae,
        "k": d.k,
        "lm_name": d.model,
        "layer": int(layer[1]) if layer else None,
        "submodule_name": d.hook_name,
    }
    trainer = {key: value for key, value in trainer.items() if value is not None}
    state = {key: value.contiguous().clone() for key, value in weights.items()}
    config = {"trainer": trainer, "buffer": {} if d.context is None else {"ctx_len": d.context}}
    return {WEIGHTS: lambda path: torch.save(state, path), CONFIG: record(config)}


def _class_of(d: Foreign) -> tuple[str, dict[str, Tensor]]:
    """The class that computes the same, and its state_dict."""
    linear = {"encoder.weight": d.W_enc, "decoder.weight": d.W_dec.T}
    own = {"W_enc": d.W_enc.T, "W_dec": d.W_dec, "b_dec": d.b_dec}
    counted = {"k": torch.tensor(d.k or 0, dtype=torch.int32, device="cpu")}
    biased = {"encoder.bias": d.b_enc, "b_dec": d.b_dec}
    if d.activation == "relu" and d.centred:
        return "AutoEncoder", linear | {"encoder.bias": d.b_enc, "bias": d.b_dec}
    if d.activation == "relu":
        return "AutoEncoderNew", linear | {"encoder.bias": d.b_enc, "decoder.bias": d.b_dec}
    if d.activation == "topk":
        return "AutoEncoderTopK", linear | biased | counted | {"threshold": _number(-1.0)}
    if d.activation == "batch_topk":
        counted |= {"threshold": _number(float(thresholds(d)[0]))}
        if d.prefixes is None:
            return "BatchTopKSAE", linear | biased | counted
        sizes = [after - before for before, after in itertools.pairwise((0, *d.prefixes))]
        groups = torch.tensor(sizes, dtype=torch.int64, device="cpu")
        return "MatryoshkaBatchTopKSAE", own | {"b_enc": d.b_enc, "group_sizes": groups} | counted
    if d.activation == "gated":
        assert d.r_mag is not None and d.b_mag is not None
        magnitudes = {"r_mag": d.r_mag, "mag_bias": d.b_mag}
        return "GatedAutoEncoder", linear | magnitudes | {"gate_bias": d.b_enc, "decoder_bias": d.b_dec}
    if d.activation == "jumprelu":
        return "JumpReluAutoEncoder", own | {"b_enc": uncentred_bias(d), "threshold": thresholds(d)}
    raise Refused(f"activation {d.activation!r}")


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")
