"""AuxK by products with all dead features, while they are so few that gathering rows costs more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.ops.precision import as_given

BYTES = 64 << 20  # of an array of tokens × dead features; tokens come in blocks of so many


@dataclass(frozen=True)
class DenseAux:
    """The AuxK loss of a batch, a mean over tokens and D, and sums that its gradients are made of.

    With the error of the reconstruction ê − e [N, D] and z [N, R], what each dead feature gives to it:

    Attributes:
        loss: 0-dim.
        decoder: zᵀ·(ê − e) [R, D].
        encoder: sᵀ·inputs [R, D], with s = (ê − e)·w_decᵀ where z > 0.
        bias: Σ s [R].
    """

    loss: Tensor
    decoder: Tensor
    encoder: Tensor
    bias: Tensor


@as_given
def dense(inputs: Tensor, residual: Tensor, w_enc: Tensor, bias: Tensor, w_dec: Tensor, size: int) -> DenseAux:
    """AuxK on inputs [N, D] (centred) whose residual x̂ − x [N, D] the ``size`` largest of R features are to explain."""
    n, d = inputs.shape
    decoder, encoder = torch.zeros_like(w_dec), torch.zeros_like(w_enc)
    slopes, squares = torch.zeros_like(bias), torch.zeros((), dtype=torch.float64, device=inputs.device)
    block = max(1, BYTES // (inputs.element_size() * len(w_enc)))
    for x, error in zip(inputs.split(block), residual.split(block), strict=True):
        z = torch.addmm(bias, x, w_enc.T)
        if size < len(w_enc):
            kept = torch.zeros_like(z).scatter_(1, z.topk(size, sorted=False).indices, 1.0)
            z = z.relu_().mul_(kept)
        else:
            z = z.relu_()
        left = torch.addmm(error, z, w_dec)
        squares += torch.linalg.vector_norm(left, dim=1).double().square().sum()
        slope = torch.mm(left, w_dec.T).mul_(z > 0)
        slopes += slope.sum(0)
        encoder.addmm_(slope.T, x)
        decoder.addmm_(z.T, left)
    return DenseAux((squares / (n * d)).to(inputs.dtype), decoder, encoder, slopes)
