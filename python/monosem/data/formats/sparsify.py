"""sparsify: ``cfg.json`` and ``sae.safetensors`` in a folder that is named after a module."""

from __future__ import annotations

from pathlib import Path

from monosem.data import sealed
from monosem.data.formats.base import Foreign, Format, Given, context_of, record_of, refuse, size_of, text_of
from monosem.data.formats.hooks import after_layer
from monosem.data.formats.tensors import of_safetensors

CONFIG, WEIGHTS, RUN = "cfg.json", "sae.safetensors", "config.json"
_ACTIVATIONS = {"topk": "topk", "groupmax": "group_max"}


def recognise(path: Path) -> bool:
    record = record_of(path / CONFIG)
    return (path / WEIGHTS).is_file() and {"d_in", "k", "expansion_factor"} <= record.keys() and "kind" not in record


def read(path: Path, given: Given) -> Foreign:
    """An autoencoder; or a transcoder, which has no b_dec on its input. Either may have a skip connection."""
    file = path / CONFIG
    cfg = sealed.read_json(file, "folder", "the configuration of a sparse coder of sparsify")
    activation, is_transcoder, has_skip = cfg.get("activation", "topk"), cfg.get("transcode", False), "skip_connection"
    if activation not in _ACTIVATIONS:
        refuse(file, "activation", activation, f"one of {', '.join(_ACTIVATIONS)}")
    for name in ("transcode", has_skip):
        if not isinstance(cfg.get(name, False), bool):
            refuse(file, name, cfg[name], "true or false")
    if cfg.get("signed", False) is not False:
        refuse(file, "signed", cfg["signed"], "false: a choice by magnitude is of an old version")
    d_in = size_of(cfg, "d_in", file)
    d_sae = (
        size_of(cfg, "num_latents", file) if cfg.get("num_latents") else d_in * size_of(cfg, "expansion_factor", file)
    )
    tensors = of_safetensors(path / WEIGHTS, {"d_in": d_in, "d_sae": d_sae})
    W_enc, b_enc = tensors.take("encoder.weight", "d_sae", "d_in"), tensors.take("encoder.bias", "d_sae")
    W_dec, b_dec = tensors.take("W_dec", "d_sae", "d_in"), tensors.take("b_dec", "d_in")
    W_skip = tensors.take("W_skip", "d_in", "d_in") if cfg.get(has_skip) else None
    tensors.done()
    hook = after_layer(path.absolute().name)
    run = record_of(path.parent / RUN)
    return Foreign(
        activation=_ACTIVATIONS[activation],
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        W_skip=W_skip,
        centred=not is_transcoder,
        k=size_of(cfg, "k", file),
        is_transcoder=is_transcoder or W_skip is not None,
        model=text_of(run, "model"),
        hook_name=None if is_transcoder else hook,
        hook_out=hook,
        context=context_of(run, "ctx_len"),
        notes={"architecture": activation, "file": WEIGHTS, "hookpoint": path.absolute().name},
    )


SPARSIFY = Format("sparsify", f"{CONFIG} + {WEIGHTS}", recognise, read)
