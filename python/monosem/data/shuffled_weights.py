"""The control of the paper: a model that knows nothing, with the same distribution of weights."""

from __future__ import annotations

import copy

import torch

from monosem.data.adapter import Model
from monosem.data.native import NativeModel

SHUFFLED = "~shuffled"  # behind the name of a model


@torch.no_grad()
def shuffle_weights(model: Model, seed: int = 0) -> NativeModel:
    """A copy of one of monosem's own models in which the entries of each weight matrix are permuted at random.

    Each matrix keeps its entries and loses its structure; vectors (biases, LayerNorm gains) stay. W_Q, W_K and W_V are
    three matrices. Source: *Towards Monosemanticity*, footnote 28 (its "randomized transformer").

    Args:
        model: a native model.
        seed: of the permutations.

    Raises:
        ValueError: the model is not one of monosem's own.
    """
    if not isinstance(model, NativeModel):
        raise ValueError(
            f"model: got {type(model).__name__} {getattr(model, 'name', '')!r}; wanted one of monosem's own "
            "(A, B, or a folder of `monosem lm train`), whose weights can be copied and shuffled"
        )
    module = copy.deepcopy(model.module)
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        if p.ndim < 2:
            continue
        for matrix in p.chunk(3) if "qkv" in name else (p,):
            order = torch.randperm(matrix.numel(), generator=generator, device="cpu")
            matrix.copy_(matrix.reshape(-1)[order].view_as(matrix))
    return NativeModel(module, model.tokenizer, model.name + SHUFFLED)
