"""The gradients of an autoencoder, as a step uses them: in sparse factors, in dense blocks, or as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from monosem import ops
from monosem.ops.sparse_decode import weighted_sum
from monosem.ops.step_stats import phase

Csc = tuple[Tensor, Tensor, Tensor]  # entries sorted by feature, as ``ops.csc`` returns them


class RowOptimizer(Protocol):
    """Updates rows as their gradients are computed, so that none of size F × D goes to memory (``FastStep``)."""

    def update_rows(self, name: str, part: slice, gradient: Tensor) -> None:
        """Update the rows ``part`` of a parameter by their gradient."""
        ...

    def update_factors(self, name: str, csc: Csc, coef: Tensor, u: Tensor, scale: float) -> None:
        """Update all rows by ``scale · row_grad(*csc, coef, u)``."""
        ...

    def update_encoder(
        self, name: str, csc: Csc, coef: Tensor, u: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Update all rows by ``row_grad(*csc, coef, u)``; returns the sums of ``ops.encoder_grad_adam_``."""
        ...


class ParameterGradients(Protocol):
    """Gradients of every parameter of an autoencoder. Exactly one of the two methods is called, once."""

    def multiplied(self) -> dict[str, Tensor]:
        """All of them as arrays, by name; the caller may write to these."""
        ...

    def update(self, optimizer: RowOptimizer) -> dict[str, Tensor]:
        """Give those of rows to the optimizer, and return the others by name."""
        ...


@dataclass(frozen=True)
class Multiplied:
    """Gradients as arrays, one per parameter: those of autograd."""

    arrays: dict[str, Tensor]

    def multiplied(self) -> dict[str, Tensor]:
        return self.arrays

    def update(self, optimizer: RowOptimizer) -> dict[str, Tensor]:
        return self.arrays


@dataclass(frozen=True)
class RowFactors:
    """Weight gradients as sparse factors: row f of dW is ``scale · Σ coef[e] · u[token of e]`` over its entries e.

    Attributes:
        indices, offsets: the code in CSR form, M tokens.
        values: activations [nnz]; with ``residual`` [M, D] they make the decoder's gradient, scaled ``decoder_scale``.
        slopes: gradient of each pre-activation [nnz]; with ``inputs`` [M, D] (centred) they make the encoder's.
        w_enc: the encoder's rows [F, D] of the forward pass.
        b_dec: gradient of the decoder bias through the decoder. The part through the encoder's input x − b_dec,
            ``−(Σ slopes) · W_enc``, is added here.
        bias: gradient of each entry's encoder bias [nnz], where it is not its slope: an entry may stand for a whole
            gradient row, with a coefficient of 1.
        others: gradients of further parameters, by name.
    """

    indices: Tensor
    offsets: Tensor
    values: Tensor
    residual: Tensor
    decoder_scale: float
    slopes: Tensor
    inputs: Tensor
    w_enc: Tensor
    b_dec: Tensor
    bias: Tensor | None = None
    others: dict[str, Tensor] = field(default_factory=dict)

    def multiplied(self) -> dict[str, Tensor]:
        csc = self._by_feature()
        phase("row_gradients")
        b_enc = ops.feature_sum(*csc[:2], self.slopes if self.bias is None else self.bias)
        return {
            "W_enc_rows": ops.row_grad(*csc, self.slopes, self.inputs),
            "W_dec": ops.row_grad(*csc, self.values, self.residual).mul_(self.decoder_scale),
            "b_enc": b_enc,
            "b_dec": self.b_dec - weighted_sum(b_enc, self.w_enc),
            **self.others,
        }

    def update(self, optimizer: RowOptimizer) -> dict[str, Tensor]:
        csc = self._by_feature()
        phase("encoder_sweep")
        b_enc, through_encoder = optimizer.update_encoder("W_enc_rows", csc, self.slopes, self.inputs, self.bias)
        phase("decoder_sweep")
        optimizer.update_factors("W_dec", csc, self.values, self.residual, self.decoder_scale)
        return {"b_enc": b_enc, "b_dec": self.b_dec - through_encoder, **self.others}

    def _by_feature(self) -> Csc:
        phase("sort")
        return ops.csc(self.indices, self.offsets, len(self.w_enc))


@dataclass(frozen=True)
class Gradients:
    """The loss of one batch and its gradients.

    Attributes:
        loss, mse, sparsity, aux, l0: 0-dim.
        fired: bool [d_sae], features active on at least one token.
        parameters: gradients of all of them.
        redone: tokens whose entries exceeded the capacity at first, so that the batch was encoded once more. On a GPU.
        left_out: tokens that are not in these means, int64, 0-dim: in a CUDA graph, which cannot encode again.
    """

    loss: Tensor
    mse: Tensor
    sparsity: Tensor
    aux: Tensor
    l0: Tensor
    fired: Tensor
    parameters: ParameterGradients
    redone: int = 0
    left_out: Tensor | None = None
