"""The autoencoder of ours that computes what a dictionary of another library computes."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.data.formats.base import Foreign
from monosem.nn import (
    SAE,
    AbsTopKConfig,
    BatchTopKConfig,
    GatedConfig,
    GroupMaxConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    SAEConfig,
    TopKConfig,
    TranscoderConfig,
    registry,
)
from monosem.nn.activations.batch_topk import KEPT
from monosem.nn.config import DecoderNorm, JsonDict
from monosem.ops.precision import as_given

_BLOCK = 1 << 14  # rows that are converted at a time
_BY_K: dict[str, type[TopKConfig]] = {
    "topk": TopKConfig,
    "batch_topk": BatchTopKConfig,
    "abs_topk": AbsTopKConfig,
    "group_max": GroupMaxConfig,
}


def build(foreign: Foreign, device: torch.device | str = "cpu") -> SAE:
    """The autoencoder, in fp32 and in ``eval()``; it is folded in float64.

    Of its training nothing is known: penalties are 0, and AuxK is off. Norms of decoder rows are those of the file.
    """
    sae = registry.build(_config(foreign), device="cpu", drawn=False)
    with torch.no_grad():
        _fill(sae, foreign)
    sae.changed()
    sae.eval()
    sae.to(device)
    hook: str | list[str] | None = foreign.hook_name
    if foreign.is_transcoder and foreign.hook_name and foreign.hook_out:
        hook = [foreign.hook_name, foreign.hook_out]
    known = {"model": foreign.model, "hook_name": hook, "context": foreign.context}
    sae.metadata = {name: value for name, value in known.items() if value is not None} | {
        "loaded_from": foreign.notes | _changes(sae, foreign)
    }
    return sae


def _config(foreign: Foreign) -> SAEConfig:
    d_sae, d_in = foreign.W_enc.shape
    k: JsonDict = {} if foreign.k is None else {"k": foreign.k}
    fixed: JsonDict = {"aux_k": 0} | k
    jump: JsonDict = {}
    if foreign.activation == "jumprelu":
        assert foreign.threshold is not None
        jump = {"l0_coefficient": 0.0, "initial_threshold": float(foreign.threshold.double().clamp(min=0).mean())}
    if foreign.is_transcoder or foreign.W_skip is not None:
        if foreign.activation not in TranscoderConfig.activations:
            raise ValueError(
                f"activation: got {foreign.activation!r} with a transcoder or a skip connection; wanted one of "
                f"{', '.join(TranscoderConfig.activations)}"
            )
        return TranscoderConfig(
            d_in,
            d_sae,
            d_out=foreign.W_dec.shape[1],
            activation=foreign.activation,
            skip=foreign.W_skip is not None,
            l1_coefficient=0.0,
            **fixed,
            **jump,
        )
    if foreign.prefixes is not None:
        return MatryoshkaConfig(d_in, d_sae, prefixes=foreign.prefixes, activation=foreign.activation, **fixed)
    if foreign.activation in _BY_K:
        return _BY_K[foreign.activation](d_in, d_sae, **fixed)
    if foreign.activation == "gated":
        return GatedConfig(d_in, d_sae, l1_coefficient=0.0)
    free = DecoderNorm.FREE.value
    if foreign.activation == "jumprelu":
        return JumpReLUConfig(d_in, d_sae, decoder_norm=free, **jump)
    assert foreign.activation == "relu", foreign.activation
    return ReLUConfig(d_in, d_sae, l1_coefficient=0.0, decoder_norm=free, apply_b_dec_to_input=foreign.centred)


def _fill(sae: SAE, foreign: Foreign) -> None:
    """Write the parameters: inputs scaled by s, decoder rows by 1/s_out, centring as the kind has it."""
    b_dec = foreign.b_dec.double() / foreign.scale_out
    norms, shift = _fill_rows(sae, foreign, b_dec)
    sae.b_enc.copy_(foreign.b_enc.double() * norms + shift)
    sae.b_dec.copy_(b_dec)
    parameters, buffers = dict(sae.named_parameters()), dict(sae.named_buffers())
    if foreign.activation == "gated":
        assert foreign.r_mag is not None and foreign.b_mag is not None
        parameters["r_mag"].copy_(foreign.r_mag)
        parameters["b_mag"].copy_(foreign.b_mag.double() + foreign.r_mag.double().exp() * shift)
    if foreign.activation == "jumprelu":
        parameters["threshold"].copy_(_given(foreign.threshold))
    if foreign.activation == "batch_topk":
        buffers["batches.threshold"].copy_(_given(foreign.threshold))
        buffers["batches.seen"].fill_(1 / (1 - KEPT))  # as after many batches: a further one moves it little
    if foreign.W_skip is not None:
        parameters["W_skip"].copy_(foreign.W_skip.double() * (foreign.scale_in / foreign.scale_out))


@as_given
def _fill_rows(sae: SAE, foreign: Foreign, b_dec: Tensor) -> tuple[Tensor, Tensor]:
    """Write both matrices; returns the factors on h, and what centring adds to it, each [d_sae]."""
    shift = torch.zeros(len(foreign.W_enc), dtype=torch.float64, device="cpu")
    norms = torch.ones_like(shift)
    moved = float(sae.is_centred) - float(foreign.centred)
    if not moved and not foreign.by_norm and foreign.scale_in == foreign.scale_out == 1:
        sae.W_enc_rows.copy_(foreign.W_enc)
        sae.W_dec.copy_(foreign.W_dec)
        return norms, shift
    for first in range(0, len(shift), _BLOCK):
        here = slice(first, first + _BLOCK)
        decoder = foreign.W_dec[here].double() / foreign.scale_out
        if foreign.by_norm:
            norms[here] = decoder.norm(dim=1)
            decoder /= norms[here, None].clamp(min=torch.finfo(torch.float32).tiny)
        encoder = foreign.W_enc[here].double() * (norms[here, None] * foreign.scale_in)
        if moved:
            shift[here] = moved * (encoder @ b_dec)
        sae.W_dec[here] = decoder.to(sae.W_dec.dtype)
        sae.W_enc_rows[here] = encoder.to(sae.W_enc_rows.dtype)
    return norms, shift


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _changes(sae: SAE, foreign: Foreign) -> JsonDict:
    """What was folded into the weights, and what is left to the caller."""
    folded = []
    if foreign.scale_in != 1 or foreign.scale_out != 1:
        folded.append(f"inputs × {foreign.scale_in:.9g}, outputs / {foreign.scale_out:.9g}")
    if foreign.by_norm:
        folded.append("norms of the decoder rows, by which features are chosen")
    if sae.is_centred != foreign.centred:
        folded.append("W_enc·b_dec, " + ("which is added to" if sae.is_centred else "which is taken off") + " b_enc")
    left = {} if foreign.normalisation is None else {"inputs_normalised": foreign.normalisation}
    return left | ({"folded": folded} if folded else {})
