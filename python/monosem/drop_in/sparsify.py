"""What replaces the methods of sparsify's class (1.3)."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor

from monosem.drop_in.activations import decoded
from monosem.drop_in.pre_activations import Encoder, PreActivations
from monosem.ops import SparseCode


def _encode(self: Any, x: Tensor) -> Any:
    library = type(self).__mro__[1]
    if self.cfg.activation != "topk":
        return library.encode(self, x)
    if not self.cfg.transcode:
        x = x - self.b_dec
    encoder = Encoder(x, self.encoder.weight, self.encoder.bias, relu=True)
    code = encoder.topk(self.cfg.k)
    output = sys.modules[library.encode.__module__].EncoderOutput
    return output(code.values, code.indices.long(), PreActivations.of(encoder))


def _decode(self: Any, top_acts: Tensor, top_indices: Tensor) -> Tensor:
    code = SparseCode(top_acts, top_indices.int(), None, self.num_latents, top_acts.shape[:-1])
    return decoded(code, self.W_dec, self.b_dec)


METHODS = {"SparseCoder": {"encode": _encode, "decode": _decode}}
