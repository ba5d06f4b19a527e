"""What replaces the methods of dictionary_learning's classes (0.1.0)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from monosem.drop_in.activations import Activations
from monosem.drop_in.batch_choice import batch_topk
from monosem.drop_in.pre_activations import Encoder, PreActivations


def _linear(ae: Any, x: Tensor, subtracted: Tensor | None) -> Encoder:
    return Encoder(x if subtracted is None else x - subtracted, ae.encoder.weight, ae.encoder.bias)


def _relu(self: Any, x: Tensor) -> Tensor:
    return Activations.of(_linear(self, x, self.bias).above())


def _relu_new(self: Any, x: Tensor) -> Tensor:
    return Activations.of(_linear(self, x, None).above())


def _gated(self: Any, x: Tensor, return_gate: bool = False, normalize_decoder: bool = False) -> Any:
    encoder = Encoder(x - self.decoder_bias, self.encoder.weight, self.gate_bias)
    gate, magnitudes = encoder.gated(self.r_mag, self.mag_bias)
    f: Any = Activations.of(magnitudes)
    if normalize_decoder:
        f = f * self.decoder.weight.norm(dim=0)
    return (f, Activations.of(gate)) if return_gate else f


def _jumprelu(self: Any, x: Tensor, output_pre_jump: bool = False) -> Any:
    encoder = Encoder(x - self.b_dec if self.apply_b_dec_to_input else x, self.W_enc.mT, self.b_enc)
    f = Activations.of(encoder.above(self.threshold.clamp(min=0)))
    return (f, PreActivations.of(encoder)) if output_pre_jump else f


def _topk(self: Any, x: Tensor, return_topk: bool = False, use_threshold: bool = False) -> Any:
    encoder = replace(_linear(self, x, self.b_dec), relu=True)
    h = PreActivations.of(encoder)
    chosen = None if use_threshold and not return_topk else encoder.topk(int(self.k))
    if use_threshold:
        f = Activations.of(encoder.above(self.threshold.clamp(min=0)))
    else:
        assert chosen is not None
        f = Activations.of(chosen)
    return (f, chosen.values, chosen.indices.long(), h) if chosen is not None and return_topk else f


def _batch_topk(self: Any, x: Tensor, return_active: bool = False, use_threshold: bool = True) -> Any:
    encoder = replace(_linear(self, x, self.b_dec), relu=True)
    return _batch(self, encoder, self.dict_size, return_active, use_threshold)


def _matryoshka(self: Any, x: Tensor, return_active: bool = False, use_threshold: bool = True) -> Any:
    encoder = Encoder(x - self.b_dec, self.W_enc.mT, self.b_enc, relu=True)
    return _batch(self, encoder, int(self.group_indices[self.active_groups]), return_active, use_threshold)


def _batch(ae: Any, encoder: Encoder, end: int, return_active: bool, use_threshold: bool) -> Any:
    """BatchTopK over all features, of which those from ``end`` on are then 0."""
    code = encoder.above(ae.threshold.clamp(min=0)) if use_threshold else batch_topk(ae, encoder, int(ae.k))
    if end < ae.dict_size:
        code = replace(code, values=code.values.where(code.indices < end, 0))
    f = Activations.of(code)
    return (f, f.sum(0) > 0, PreActivations.of(encoder)) if return_active else f


METHODS = {
    "AutoEncoder": {"encode": _relu},
    "AutoEncoderNew": {"encode": _relu_new},
    "AutoEncoderTopK": {"encode": _topk},
    "BatchTopKSAE": {"encode": _batch_topk},
    "MatryoshkaBatchTopKSAE": {"encode": _matryoshka},
    "GatedAutoEncoder": {"encode": _gated},
    "JumpReluAutoEncoder": {"encode": _jumprelu},
}
