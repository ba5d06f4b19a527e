"""An autoencoder composed of an activation, a penalty and a way to revive dead features."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monosem import ops
from monosem.nn.activations import Activation
from monosem.nn.auxk import AuxK, DeadFeatures
from monosem.nn.base import SAE, LossOutput
from monosem.nn.config import SAEConfig
from monosem.nn.dense import DenseBlocks
from monosem.nn.gradients import Gradients, RowFactors
from monosem.nn.penalties import L1
from monosem.ops import SparseCode, step_stats
from monosem.ops.capacity import Capacity, DeadFeatureCapacity, Encoded, EncoderInputs, Step
from monosem.ops.step_stats import phase
from monosem.ops.structs import EncoderCopy


@dataclass(frozen=True)
class Composition:
    """The parts of an autoencoder. Each knows nothing of the others.

    Attributes:
        activation: which features are active, and with what value.
        penalty: what the loss adds for active features; None: nothing.
        revival: the loss that dead features get; None: none (resampling is the trainer's).
    """

    activation: Activation
    penalty: L1 | None = None
    revival: AuxK | None = None

    def capacity(self, d_sae: int, device: torch.device | str | None) -> Capacity:
        """What decides how a step of this composition runs on its device."""
        of_entries = self.activation.capacity(d_sae, device)
        if self.revival is None:
            return of_entries or Capacity()
        if of_entries is not None:
            raise ValueError(
                f"revival: got {self.revival} with {self.activation}; wanted None, or an activation with a fixed "
                "number of entries per token. Revive by TrainConfig(resample=...)"
            )
        return DeadFeatureCapacity(d_sae, used=self.revival.is_on, device=device)


class ComposedSAE(SAE):
    r"""``L = mean_D (x − x̂)² + penalty + revival``, mean over tokens; presets say which (``composition``).

    ``loss`` is the definition. ``gradients`` is the same in sparse factors, checked against autograd on ``loss``.
    """

    def __init__(
        self, cfg: SAEConfig, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(cfg, device, dtype)
        self.capacity = self.composition.capacity(cfg.d_sae, device)

    @property
    @abstractmethod
    def composition(self) -> Composition:
        """The parts, by the present configuration."""

    def encode(self, x: Tensor) -> SparseCode:
        """The active features of x [..., d_in]."""
        return self.composition.activation.encode(self._inputs(self.centred(x)))

    def loss(self, x: Tensor, sparsity_scale: float = 1.0, dead: Tensor | None = None) -> LossOutput:
        """The loss of x [..., d_in]; ``dead`` marks the features that may be revived."""
        parts = self.composition
        centred = self.centred(self.some(x))
        code = parts.activation.encode(self._inputs(centred))
        token_mse, residual = ops.decode_loss(code, self.W_dec, self.b_dec, x)
        mse, sparsity = token_mse.mean(), code.l1()
        loss, aux = mse, mse.new_zeros(())
        if parts.penalty is not None:
            loss = loss + parts.penalty.weight(sparsity_scale) * sparsity
        if parts.revival is not None and dead is not None:
            numbers = dead.nonzero()[:, 0]
            aux = parts.revival.loss(self._rows(numbers, self.b_enc[numbers]), centred, residual)
            loss = loss + parts.revival.coefficient * aux
        return LossOutput(loss, mse, sparsity, aux, x + residual, code)

    @torch.no_grad()
    def token_losses(self, x: Tensor, sparsity_scale: float = 1.0) -> Tensor:
        """``mean_D (x − x̂)²`` and the penalty of each token, float32 [N]."""
        code, penalty = self.encode(x), self.composition.penalty
        losses = (x - self.decode(code)).float().square().mean(-1)
        if penalty is not None and (weight := penalty.weight(sparsity_scale)):
            losses += weight * penalty.of_tokens(code)
        return losses

    @torch.no_grad()
    def gradients(
        self,
        x: Tensor,
        sparsity_scale: float = 1.0,
        dead: Tensor | None = None,
        encoder_copy: EncoderCopy | None = None,
    ) -> Gradients:
        """The same loss of x [N, d_in] and its gradients, without an autograd graph.

        While many features of a ReLU fire, the products are dense, in blocks of features; while few features are dead,
        AuxK multiplies with all of them (``ops/capacity.py`` decides). In a CUDA graph the means are over the tokens
        whose entries fit; the others are counted (``left_out``), and AuxK may leave out features that have just died.
        """
        parts = self.composition
        # A dense step does not encode: only there, centring is a phase of its own.
        phase("centre") if parts.activation.has_dense_form else phase("encode")
        centred = self.centred(self.some(x))
        weight = 0.0 if parts.penalty is None else parts.penalty.weight(sparsity_scale)
        step = Step(
            inputs=self._inputs(centred, encoder_copy),
            sparse=lambda encoded: self._sparse(x, centred, encoded, weight, dead),
            dense=lambda: self._dense(x, centred, weight),
        )
        gradients, redone = parts.activation.run(step, self.capacity)
        return replace(gradients, redone=redone) if redone else gradients

    def _sparse(self, x: Tensor, centred: Tensor, encoded: Encoded, weight: float, dead: Tensor | None) -> Gradients:
        phase("decode_loss")
        parts, (n, d) = self.composition, x.shape
        if parts.activation.has_dense_form:
            step_stats.ran(dense=False)
        code, kept, left_out = encoded.code, encoded.kept, None
        values, indices, offsets = code.csr()
        token_mse, residual, slopes = ops.decode_loss_rows(values, indices, offsets, self.W_dec, self.b_dec, x)
        slopes = slopes if parts.penalty is None else slopes.add_(weight)
        slopes = parts.activation.through(values, slopes).div_(n)
        phase("statistics")
        sparsity, l0, fired = code.l1(), code.l0(), code.fired()
        if kept is not None:  # means over the tokens that are in the code
            left_out = n - kept.sum()
            share = n / (n - left_out).clamp(min=1)
            token_mse, residual = token_mse * kept * share, residual.mul_((kept * share)[:, None])
            slopes, sparsity, l0 = slopes.mul_(share), sparsity * share, l0 * share
        mse = token_mse.mean()
        loss = mse if parts.penalty is None else mse + weight * sparsity
        factors = RowFactors(
            indices=indices,
            offsets=offsets,
            values=values,
            residual=residual,
            decoder_scale=2 / (n * d),
            slopes=slopes,
            inputs=centred,
            w_enc=self.W_enc_rows.detach(),
            b_dec=residual.sum(0).mul_(2 / (n * d)),
        )
        aux = mse.new_zeros(())
        if parts.revival is not None and dead is not None:
            phase("aux")
            aux, factors = self._revived(parts.revival, dead, centred, residual, factors)
            loss = loss + parts.revival.coefficient * aux
        return Gradients(
            loss=loss,
            mse=mse,
            sparsity=sparsity,
            aux=aux,
            l0=l0,
            fired=fired,
            parameters=factors,
            left_out=left_out,
        )

    def _revived(
        self, revival: AuxK, dead: Tensor, centred: Tensor, residual: Tensor, factors: RowFactors
    ) -> tuple[Tensor, RowFactors]:
        """The loss of the dead features (bool [F]), and the factors with their entries."""
        capacity = self.capacity
        assert isinstance(capacity, DeadFeatureCapacity)  # made by Composition.capacity
        if not revival.is_on:
            return residual.new_zeros(()), factors
        extra = revival.entries(self._rows(*capacity.rows(dead, self.b_enc)), centred, residual, capacity)
        if extra is None:
            return residual.new_zeros(()), factors
        return extra.loss * dead.any(), extra.below(factors)

    def _dense(self, x: Tensor, centred: Tensor, weight: float) -> tuple[Gradients, Tensor]:
        """The gradients, and the number of active features of each token [N]."""
        phase("dense_products")
        step_stats.ran(dense=True)
        n, d = x.shape
        blocks = DenseBlocks(
            x,
            centred=centred,
            w_enc=self.W_enc_rows,
            w_dec=self.W_dec,
            b_enc=self.b_enc,
            b_dec=self.b_dec,
            penalty=weight / n,
        )
        phase("statistics")
        mse, sparsity = (blocks.squares / (n * d)).to(x.dtype), (blocks.total / n).to(x.dtype)
        gradients = Gradients(
            loss=mse + weight * sparsity,
            mse=mse,
            sparsity=sparsity,
            aux=mse.new_zeros(()),
            l0=(blocks.counts.sum().double() / n).float(),
            fired=blocks.counts > 0,
            parameters=blocks,
        )
        return gradients, blocks.per_token

    def _inputs(self, centred: Tensor, encoder_copy: EncoderCopy | None = None) -> EncoderInputs:
        return EncoderInputs(centred, self.W_enc_rows, self.b_enc, encoder_copy)

    def _rows(self, numbers: Tensor, bias: Tensor) -> DeadFeatures:
        return DeadFeatures(numbers, self.W_enc_rows[numbers], bias, self.W_dec[numbers])
