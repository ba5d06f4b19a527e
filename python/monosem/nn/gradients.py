"""The gradients of an autoencoder, as a step uses them: in sparse factors, in dense blocks, or as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from monosem import ops
from monosem.ops.shard import WHOLE, Shard
from monosem.ops.sparse_decode import weighted_sum
from monosem.ops.step_stats import phase

Csc = tuple[Tensor, Tensor, Tensor]  # entries sorted by feature, as ``ops.csc`` returns them


class RowOptimizer(Protocol):
    """Updates rows as their gradients are computed, so that none of size F × D goes to memory (``FastStep``)."""

    def update_rows(self, name: str, part: slice, gradient: Tensor) -> None:
        """Update the rows ``part`` of a parameter by their gradient."""
        ...

    def update_factors(self, name: str, csc: Csc, coef: Tensor, u: Tensor, scale: float, own: Tensor | None) -> None:
        """Update all rows by ``scale · row_grad(*csc, coef, u)``, and ``own`` [F, B] times their blocks themselves."""
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
class NormTerms:
    """The gradient of a loss in the norms of the decoder's rows, which turns each row by a multiple of itself.

    Attributes:
        coef: of each entry [nnz], its gradient in ``Σ_b ‖block b of the row‖``.
        sums: the same of each feature [F], from elsewhere; None: nothing.
        norms: of the blocks, [F, B].
        rows: the decoder's rows [F, D].
    """

    coef: Tensor
    sums: Tensor | None
    norms: Tensor
    rows: Tensor

    def own(self, csc: Csc) -> Tensor:
        """The multiple of each block, [F, B]; a block of norm 0 has no gradient in it."""
        sums = ops.feature_sum(*csc[:2], self.coef)
        sums = sums if self.sums is None else sums + self.sums
        return torch.where(self.norms > 0, sums[:, None] / self.norms, 0)

    def multiplied(self, csc: Csc) -> Tensor:
        """The gradient of the rows [F, D]."""
        return by_blocks(self.rows, self.own(csc))


def by_blocks(rows: Tensor, own: Tensor) -> Tensor:
    """Rows [F, D] with each of their B blocks times its element of ``own`` [F, B]."""
    f, d = rows.shape
    return (rows.view(f, own.shape[1], -1) * own[:, :, None]).view(f, d)


@dataclass(frozen=True)
class RowFactors:
    """Weight gradients as sparse factors: row f of dW is ``scale · Σ coef[e] · u[token of e]`` over its entries e.

    Attributes:
        indices, offsets: the code in CSR form, M tokens: those of the batch, or each several times (``nn/nesting.py``).
        values: activations [nnz]; with ``residual`` [M, D] they make the decoder's gradient, scaled ``decoder_scale``.
        slopes: gradient of each pre-activation [nnz]; with ``inputs`` [M, D] (centred) they make the encoder's.
        w_enc: the encoder's rows [F, D] of the forward pass.
        b_dec: gradient of the decoder bias through the decoder. The part through the encoder's input x − b_dec,
            ``−(Σ slopes) · W_enc``, is added here.
        is_centred: whether the encoder's input is x − b_dec; without, b_dec has no part through it.
        bias: gradient of each entry's encoder bias [nnz], where it is not its slope: an entry may stand for a whole
            gradient row, with a coefficient of 1.
        input_of: int64 [M], the row of ``inputs`` of each token, where they are not the same.
        of_entries: gradients of vectors [F], by name, as a part of each entry [nnz].
        norms: the gradient in the norms of decoder rows.
        others: gradients of further parameters, by name; of a vector that has a part of entries, the rest.
        shard: which features these are.
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
    is_centred: bool = True
    bias: Tensor | None = None
    input_of: Tensor | None = None
    of_entries: dict[str, Tensor] = field(default_factory=dict)
    norms: NormTerms | None = None
    others: dict[str, Tensor] = field(default_factory=dict)
    shard: Shard = WHOLE

    def multiplied(self) -> dict[str, Tensor]:
        csc = self._by_feature()
        phase("row_gradients")
        sums = ops.feature_sum(*csc[:2], self.slopes if self.bias is None else self.bias)
        w_dec = ops.row_grad(*csc, self.values, self.residual).mul_(self.decoder_scale)
        if self.norms is not None:
            w_dec += self.norms.multiplied(csc)
        return {
            "W_enc_rows": ops.row_grad(*self._of_inputs(csc), self.slopes, self.inputs),
            "W_dec": w_dec,
            "b_dec": self._of_b_dec(weighted_sum(sums, self.w_enc) if self.is_centred else None),
            **self._vectors(csc, sums),
        }

    def update(self, optimizer: RowOptimizer) -> dict[str, Tensor]:
        csc = self._by_feature()
        phase("encoder_sweep")
        own = None if self.norms is None else self.norms.own(csc)
        sums, through_encoder = optimizer.update_encoder(
            "W_enc_rows", self._of_inputs(csc), self.slopes, self.inputs, self.bias
        )
        phase("decoder_sweep")
        optimizer.update_factors("W_dec", csc, self.values, self.residual, self.decoder_scale, own)
        b_dec = self._of_b_dec(through_encoder if self.is_centred else None)
        return {"b_dec": b_dec, **self._vectors(csc, sums)}

    def _of_b_dec(self, through_encoder: Tensor | None) -> Tensor:
        """The gradient of b_dec, from its part through the encoders of these features."""
        return self.b_dec if through_encoder is None else self.b_dec - self.shard.sum_features(through_encoder)

    def _by_feature(self) -> Csc:
        phase("sort")
        return ops.csc(self.indices, self.offsets, len(self.w_enc))

    def _of_inputs(self, csc: Csc) -> Csc:
        """The sorted entries with the row of ``inputs`` of each."""
        starts, entries, tokens = csc
        if self.input_of is None:
            return csc
        known = tokens.long().clamp_(0, len(self.input_of) - 1)  # places of no entry hold any number
        return starts, entries, self.input_of[known].int()

    def _vectors(self, csc: Csc, b_enc: Tensor) -> dict[str, Tensor]:
        """The gradients of everything but matrices of rows and b_dec."""
        vectors = dict(self.others)
        vectors["b_enc"] = vectors["b_enc"] + b_enc if "b_enc" in vectors else b_enc
        for name, coef in self.of_entries.items():
            sums = ops.feature_sum(*csc[:2], coef)
            vectors[name] = vectors[name] + sums if name in vectors else sums
        return vectors


@dataclass(frozen=True)
class Gradients:
    """The loss of one batch and its gradients.

    Attributes:
        loss, mse, sparsity, aux, l0: 0-dim.
        fired: bool [d_sae], features active on at least one token.
        parameters: gradients of all of them.
        redone: tokens whose entries exceeded the capacity at first, so that the batch was encoded once more. On a GPU.
        left_out: tokens that are not in these means, int64, 0-dim: in a CUDA graph, which cannot encode again.
        per_token: mean number of entries of a token, 0-dim, where some of them are not active; None: ``l0``.
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
    per_token: Tensor | None = None

    @property
    def entries(self) -> Tensor:
        """The mean number of entries per token that it was computed from."""
        return self.l0 if self.per_token is None else self.per_token
