"""The paper's autoencoder: ReLU features with an L1 penalty."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from monosem import ops
from monosem.nn.base import SAE, LossOutput
from monosem.nn.config import ReLUConfig
from monosem.nn.dense import DenseBlocks
from monosem.nn.gradients import Gradients, RowFactors
from monosem.nn.registry import register
from monosem.ops import SparseCode, step_stats
from monosem.ops.capacity import Encoded, EncoderInputs, EntryCapacity, Step
from monosem.ops.step_stats import phase
from monosem.ops.structs import EncoderCopy


@register
class ReLUSAE(SAE):
    r"""``f = ReLU(W_enc·(x − b_dec) + b_enc)``, ``L = mean_D (x − x̂)² + λ·Σ f``, mean over tokens.

    The squared error is a **mean** over the D elements and the penalty a **sum** over features: λ = 0.004 here is the
    paper's 0.004, and equals 0.004·D where the squared error is summed.

    Initialisation: PyTorch's Kaiming-uniform for both matrices, decoder rows then made unit; ``initialize(sample)``
    sets ``b_dec`` to the geometric median. Dead features: ``TrainConfig(resample=...)``.

    Source: *Towards Monosemanticity* (2023), appendices "Autoencoder Architecture" and "Autoencoder Dataset and
    Basic Training".
    """

    Config = ReLUConfig
    cfg: ReLUConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l1_coefficient: float = 1e-3,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(ReLUConfig(d_in, d_sae, l1_coefficient), device, dtype)
        generator = None if seed is None else torch.Generator(self.W_dec.device).manual_seed(seed)
        # The paper's default Kaiming-uniform of nn.Linear: ±1/√fan_in, each matrix with its own fan-in.
        nn.init.uniform_(self.W_enc_rows, -(d_in**-0.5), d_in**-0.5, generator=generator)
        nn.init.uniform_(self.W_dec, -(d_sae**-0.5), d_sae**-0.5, generator=generator)
        self.normalize_decoder()
        self.capacity: EntryCapacity = EntryCapacity(d_sae, device)  # pyright: ignore[reportIncompatibleVariableOverride]

    def encode(self, x: Tensor) -> SparseCode:
        """The positive features of each token, in CSR form."""
        return ops.threshold_encode(self.centred(x), self.W_enc_rows, self.b_enc)

    def loss(self, x: Tensor, sparsity_scale: float = 1.0, dead: Tensor | None = None) -> LossOutput:
        """``mean_D (x − x̂)² + sparsity_scale·λ·Σ f``, mean over the tokens of x [..., d_in]; ``dead`` is not used."""
        code = self.encode(self.some(x))
        token_mse, residual = ops.decode_loss(code, self.W_dec, self.b_dec, x)
        mse = token_mse.mean()
        sparsity = code.values.sum() / max(1, code.n_tokens)
        loss = mse + sparsity_scale * self.cfg.l1_coefficient * sparsity
        return LossOutput(loss, mse, sparsity, mse.new_zeros(()), x + residual, code)

    @torch.no_grad()
    def token_losses(self, x: Tensor, sparsity_scale: float = 1.0) -> Tensor:
        """``mean_D (x - x̂)² + sparsity_scale·λ·Σ f`` of each token, float32 [N]."""
        code = self.encode(x)
        losses = (x - self.decode(code)).float().square().mean(-1)
        if coefficient := sparsity_scale * self.cfg.l1_coefficient:
            values, _, offsets = code.csr()
            losses += coefficient * torch.segment_reduce(values.float(), "sum", offsets=offsets, initial=0.0)
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

        While many features fire the products are dense, in blocks of features (``ops/capacity.py``). In a CUDA graph
        the means are over the tokens that are in the code; the others are counted (``left_out``).
        """
        phase("centre")
        centred = self.centred(self.some(x))
        weight = sparsity_scale * self.cfg.l1_coefficient
        step = Step(
            inputs=EncoderInputs(centred, self.W_enc_rows, self.b_enc, encoder_copy),
            sparse=lambda encoded: self._sparse(x, centred, encoded, weight),
            dense=lambda: self._dense(x, centred, weight),
        )
        gradients, redone = self.capacity.run(step)
        return replace(gradients, redone=redone) if redone else gradients

    def _sparse(self, x: Tensor, centred: Tensor, encoded: Encoded, weight: float) -> Gradients:
        phase("decode_loss")
        step_stats.ran(dense=False)
        n, d = x.shape
        code, kept, left_out = encoded.code, encoded.kept, None
        values, indices, offsets = code.csr()
        token_mse, residual, slopes = ops.decode_loss_rows(values, indices, offsets, self.W_dec, self.b_dec, x)
        slopes = slopes.add_(weight).div_(n)
        phase("statistics")
        sparsity, l0 = values.sum() / n, code.l0()
        if kept is not None:  # means over the tokens that are in the code
            left_out = n - kept.sum()
            share = n / (n - left_out).clamp(min=1)
            token_mse, residual = token_mse * kept * share, residual.mul_((kept * share)[:, None])
            slopes, sparsity, l0 = slopes.mul_(share), sparsity * share, l0 * share
        mse = token_mse.mean()
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
        return Gradients(
            loss=mse + weight * sparsity,
            mse=mse,
            sparsity=sparsity,
            aux=mse.new_zeros(()),
            l0=l0,
            fired=code.fired(),
            parameters=factors,
            left_out=left_out,
        )

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
