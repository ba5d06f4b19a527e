"""What a fast step needs from an autoencoder: the loss, and its gradients in factors never multiplied out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from monosem.nn.dense import DenseBlocks


@dataclass(frozen=True)
class RowFactors:
    """Weight gradients as sparse factors: row f of dW is ``scale · Σ coef[e] · u[token of e]`` over its entries e.

    Attributes:
        indices, offsets: the code in CSR form, M tokens.
        values: activations [nnz]; with ``residual`` [M, D] they make the decoder's gradient, scaled ``decoder_scale``.
        slopes: gradient of each pre-activation [nnz]; with ``inputs`` [M, D] (centred) they make the encoder's.
        bias: gradient of each entry's encoder bias [nnz], where it is not its slope: an entry may stand for a whole
            gradient row, with a coefficient of 1.
    """

    indices: Tensor
    offsets: Tensor
    values: Tensor
    residual: Tensor
    decoder_scale: float
    slopes: Tensor
    inputs: Tensor
    bias: Tensor | None = None

    @property
    def bias_slopes(self) -> Tensor:
        """What the gradient of the encoder bias sums: [nnz]."""
        return self.slopes if self.bias is None else self.bias


@dataclass(frozen=True)
class Gradients:
    """The loss of one batch and its gradients, made without an autograd graph.

    Attributes:
        loss, mse, sparsity, aux, l0: 0-dim.
        fired: bool [d_sae], features active on at least one token.
        rows: gradients of both weight matrices and the encoder bias.
        b_dec: gradient of the decoder bias through the decoder only; the part through the encoder's input,
            ``−(Σ slopes) · W_enc``, follows from the encoder bias' gradient.
        redone: tokens for whose entries there was no room at first, so that the batch was encoded once more. On a GPU.
        left_out: tokens that are not in these means, int64, 0-dim: in a CUDA graph, where nothing can be done again.
    """

    loss: Tensor
    mse: Tensor
    sparsity: Tensor
    aux: Tensor
    l0: Tensor
    fired: Tensor
    rows: RowFactors | DenseBlocks
    b_dec: Tensor
    redone: int = 0
    left_out: Tensor | None = None
