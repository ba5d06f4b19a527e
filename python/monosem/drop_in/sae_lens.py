"""What replaces the methods of SAELens' classes (6.x)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from monosem.drop_in.activations import Activations
from monosem.drop_in.batch_choice import batch_topk
from monosem.drop_in.pre_activations import Encoder, PreActivations
from monosem.ops import SparseCode


def _encoder(sae: Any, x: Tensor) -> Encoder:
    return Encoder(sae.process_sae_in(x), sae.W_enc.mT, sae.b_enc)


def _reads_pre_activations(sae: Any) -> bool:
    """Whether a hook of the user is to see, and may change, the pre-activations: then the library's own method runs."""
    return bool(sae.hook_sae_acts_pre._forward_hooks)


def _with_norms(sae: Any, encoder: Encoder) -> Encoder:
    """The encoder whose entries are compared: times the norms of the decoder rows, where the configuration says so."""
    if not sae.cfg.rescale_acts_by_decoder_norm:
        return encoder
    norms = sae.W_dec.norm(dim=-1)
    return Encoder(encoder.x, encoder.w * norms[:, None], encoder.b * norms)


def _returned(sae: Any, code: SparseCode) -> Tensor:
    return sae.hook_sae_acts_post(Activations.of(code))


def _relu(self: Any, x: Tensor) -> Tensor:
    if _reads_pre_activations(self):
        return super(type(self), self).encode(x)
    return _returned(self, _encoder(self, x).above())


def _relu_with_hidden_pre(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if _reads_pre_activations(self):
        return super(type(self), self).encode_with_hidden_pre(x)
    encoder = _encoder(self, x)
    return _returned(self, encoder.above()), PreActivations.of(encoder)


def _jumprelu(self: Any, x: Tensor) -> Tensor:
    if _reads_pre_activations(self):
        return super(type(self), self).encode(x)
    return _returned(self, _encoder(self, x).above(self.threshold.clamp(min=0)))


def _gated(self: Any, x: Tensor) -> Tensor:
    if _reads_pre_activations(self):
        return super(type(self), self).encode(x)
    gate = Encoder(self.process_sae_in(x), self.W_enc.mT, self.b_gate)
    return _returned(self, gate.gated(self.r_mag, self.b_mag)[1])


def _topk(self: Any, x: Tensor) -> Tensor:
    if _reads_pre_activations(self):
        return super(type(self), self).encode(x)
    return _returned(self, _with_norms(self, _encoder(self, x)).topk(self.cfg.k))


def _topk_with_hidden_pre(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if _reads_pre_activations(self):
        return super(type(self), self).encode_with_hidden_pre(x)
    encoder = _with_norms(self, _encoder(self, x))
    return _returned(self, encoder.topk(self.cfg.k)), PreActivations.of(encoder)


def _batch_topk_with_hidden_pre(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if _reads_pre_activations(self):
        return super(type(self), self).encode_with_hidden_pre(x)
    encoder = _with_norms(self, _encoder(self, x))
    return _returned(self, batch_topk(self, encoder, self.cfg.k)), PreActivations.of(encoder)


METHODS = {
    "StandardSAE": {"encode": _relu},
    "TopKSAE": {"encode": _topk},
    "JumpReLUSAE": {"encode": _jumprelu},
    "GatedSAE": {"encode": _gated},
    "Transcoder": {"encode": _relu},
    "SkipTranscoder": {"encode": _relu},
    "JumpReLUTranscoder": {"encode": _jumprelu},
    "JumpReLUSkipTranscoder": {"encode": _jumprelu},
    "StandardTrainingSAE": {"encode_with_hidden_pre": _relu_with_hidden_pre},
    "TopKTrainingSAE": {"encode_with_hidden_pre": _topk_with_hidden_pre},
    "BatchTopKTrainingSAE": {"encode_with_hidden_pre": _batch_topk_with_hidden_pre},
    "MatryoshkaBatchTopKTrainingSAE": {"encode_with_hidden_pre": _batch_topk_with_hidden_pre},
}
