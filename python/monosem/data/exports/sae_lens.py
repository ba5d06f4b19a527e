"""SAELens 6: ``cfg.json`` and ``sae_weights.safetensors``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from monosem.data.exports.plain import Refused, Write, name_of, record, tensors, thresholds
from monosem.data.formats import Foreign
from monosem.data.formats.sae_lens import CONFIG, WEIGHTS
from monosem.nn.config import JsonDict

VERSION = "6.54.12"  # whose loader was tried
_ARCHITECTURES = {
    "relu": "standard",
    "topk": "topk",
    "abs_topk": "abstopk",
    "jumprelu": "jumprelu",
    "batch_topk": "jumprelu",
    "gated": "gated",
}
_TRANSCODERS = {"relu": "", "jumprelu": "jumprelu_", "batch_topk": "jumprelu_"}


def files_of(d: Foreign, folder: Path) -> dict[str, Write]:
    (d_sae, d_in), d_out = d.W_enc.shape, d.W_dec.shape[1]
    names = {"W_enc": d.W_enc.T, "W_dec": d.W_dec, "b_dec": d.b_dec, "W_skip": d.W_skip}
    config: JsonDict = {
        "architecture": architecture(d),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_out if d.is_transcoder else None,
        "k": d.k if d.activation in ("topk", "abs_topk") else None,
        "rescale_acts_by_decoder_norm": False if d.activation in ("topk", "abs_topk") else None,
        "dtype": name_of(d.W_dec.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": d.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": VERSION,
            "model_name": d.model,
            "hook_name": d.hook_name,
            "hook_name_out": d.hook_out,
            "context_size": d.context,
            "prepend_bos": True,
        },
    }
    return {WEIGHTS: tensors(names | _biases(d)), CONFIG: record(config)}


def architecture(d: Foreign) -> str:
    """SAELens' name of what a dictionary computes."""
    if not d.is_transcoder:
        if d.activation not in _ARCHITECTURES:
            raise Refused(f"activation {d.activation!r}")
        return _ARCHITECTURES[d.activation]
    if d.activation not in _TRANSCODERS:
        raise Refused(f"transcoder of {d.activation!r}")
    return _TRANSCODERS[d.activation] + ("transcoder" if d.W_skip is None else "skip_transcoder")


def _biases(d: Foreign) -> dict[str, Tensor | None]:
    if d.activation == "gated":
        return {"b_gate": d.b_enc, "b_mag": d.b_mag, "r_mag": d.r_mag}
    jumps = d.activation in ("jumprelu", "batch_topk")
    return {"b_enc": d.b_enc, "threshold": thresholds(d) if jumps else None}
