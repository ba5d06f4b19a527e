"""BatchTopK for a module of another library."""

from __future__ import annotations

from torch import nn

from monosem.drop_in.activations import wide
from monosem.drop_in.pre_activations import Encoder
from monosem.nn.activations.batch_topk import BatchThreshold, BatchTopK
from monosem.ops import SparseCode
from monosem.ops.capacity import EncoderInputs


def batch_topk(module: nn.Module, encoder: Encoder, k: float) -> SparseCode:
    """The ``int(k · tokens)`` largest positive entries of a batch.

    A guess of the threshold is kept at the module between calls, outside of its state dict: it saves time, and has no
    influence on the choice.
    """
    state, dtype = module.__dict__.get("_batch_threshold"), wide(encoder.x.dtype)
    if state is None or (state.guess.device, state.guess.dtype) != (encoder.x.device, dtype):
        state = module.__dict__["_batch_threshold"] = BatchThreshold(device=encoder.x.device, dtype=dtype)
    choice = BatchTopK(k=k, state=state)
    return encoder.chosen_by(lambda x, w, b: choice.choose(EncoderInputs(x, w, b)))
