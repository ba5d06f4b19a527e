"""TopK autoencoder with AuxK for dead features (Gao et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monosem import ops
from monosem.nn import auxk
from monosem.nn.base import SAE, LossOutput
from monosem.nn.config import TopKConfig
from monosem.nn.gradients import Gradients, RowFactors
from monosem.nn.registry import register
from monosem.ops import SparseCode, step_stats
from monosem.ops.capacity import DeadFeatureCapacity
from monosem.ops.code import uniform_offsets
from monosem.ops.step_stats import phase
from monosem.ops.topk_encode import Rounded


@register
class TopKSAE(SAE):
    r"""``f = ReLU(TopK(W_enc·(x − b_dec) + b_enc))``, ``L = mean (x − x̂)² + α·L_aux``.

    AuxK: with e = x − x̂ held fixed, the ``aux_k`` largest of the *dead* features reconstruct it, ê = W_dec·z;
    ``L_aux = mean (e − ê)²``. Its gradient reaches encoder and decoder of the dead features (and ``b_dec`` through
    the encoder's input), so that they come alive again. It costs products with the dead rows only. Unless it is given,
    ``aux_k`` is d_in // 2, but at most 512.

    Initialisation: random unit decoder rows, encoder equal to the decoder, biases 0; ``initialize(sample)`` sets
    ``b_dec`` to the geometric median.

    Source: Gao et al. 2024 (arXiv 2406.04093), sections 2.3, 2.4 and A.2.
    """

    Config = TopKConfig
    cfg: TopKConfig
    capacity: DeadFeatureCapacity

    def __init__(
        self, d_in: int, d_sae: int, k: int = 32, aux_k: int | str | None = "auto", aux_coefficient: float = 1 / 32, *,
        seed: int | None = None, device=None, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__(TopKConfig(d_in, d_sae, k, aux_k, aux_coefficient), device, dtype)
        generator = None if seed is None else torch.Generator(self.W_dec.device).manual_seed(seed)
        nn.init.normal_(self.W_dec, generator=generator)
        self.normalize_decoder()
        with torch.no_grad():
            self.W_enc_rows.copy_(self.W_dec)
        self.capacity = DeadFeatureCapacity(d_sae, used=bool(self._most_aux()), device=device)

    def encode(self, x: Tensor) -> SparseCode:
        """The k largest features of each token; ``values`` and ``indices`` are [..., k]."""
        return ops.topk_encode(self.centred(x), self.W_enc_rows, self.b_enc, self.cfg.k)

    def _most_aux(self) -> int:
        """Dead features that AuxK uses per token, if so many are dead."""
        aux_k = self.cfg.d_in // 2 if self.cfg.aux_k is None else self.cfg.aux_k
        return aux_k if self.cfg.aux_coefficient else 0

    def _aux_size(self, n_dead: int) -> int:
        return min(self._most_aux(), n_dead)

    def loss(self, x: Tensor, sparsity_scale: float = 1.0, dead: Tensor | None = None) -> LossOutput:
        """``mean (x − x̂)² + α·L_aux`` of x [..., d_in]; AuxK only when ``dead`` marks features."""
        centred = self.centred(self.some(x))
        code = ops.topk_encode(centred, self.W_enc_rows, self.b_enc, self.cfg.k)
        token_mse, residual = ops.decode_loss(code, self.W_dec, self.b_dec, x)
        mse = token_mse.mean()
        aux = mse.new_zeros(())
        rows = dead.nonzero()[:, 0] if dead is not None else ()
        if size := self._aux_size(len(rows)):
            aux_code = ops.topk_encode(centred, self.W_enc_rows[rows], self.b_enc[rows], size)
            aux = ops.decode_loss(aux_code, self.W_dec[rows], torch.zeros_like(self.b_dec), -residual.detach())[
                0
            ].mean()
        sparsity = code.values.sum(-1).mean()
        loss = mse + self.cfg.aux_coefficient * aux
        return LossOutput(loss, mse, sparsity, aux, x + residual, code)

    @torch.no_grad()
    def gradients(
        self, x: Tensor, sparsity_scale: float = 1.0, dead: Tensor | None = None, rounded: Rounded | None = None
    ) -> Gradients:
        """The same loss of x [N, d_in] and its gradients, without an autograd graph.

        While few features are dead, AuxK multiplies with all of them (``nn/auxk.py``). On a GPU it may leave out some
        of those that died in the last steps (``ops/capacity.py``).
        """
        phase("encode")
        centred = self.centred(self.some(x))
        n, d = x.shape
        code = ops.topk_encode(centred, self.W_enc_rows, self.b_enc, self.cfg.k, rounded)
        phase("decode_loss")
        values, indices, offsets = code.csr()
        token_mse, residual, slopes = ops.decode_loss_rows(values, indices, offsets, self.W_dec, self.b_dec, x)
        slopes = torch.where(values > 0, slopes, 0).div_(n)
        mse = token_mse.mean()
        loss, aux = mse, mse.new_zeros(())
        b_dec = residual.sum(0).mul_(2 / (n * d))
        phase("statistics")
        l0, fired, sparsity = code.l0(), code.fired(), code.values.sum(-1).mean()
        phase("aux")
        inputs = centred
        rows, bias = self.capacity.rows(dead, self.b_enc) if dead is not None and self._most_aux() else ((), None)
        size, bias_slopes = self._aux_size(len(rows)), None
        if size and self.capacity.products_are_cheaper(len(rows), size):
            step_stats.aux("dense", len(rows), size)
            alpha = self.cfg.aux_coefficient
            made = auxk.dense(centred, residual, self.W_enc_rows[rows], bias, self.W_dec[rows], size)
            aux = made.loss * dead.any()
            loss = mse + alpha * aux
            # The dead features' gradient rows stand below the batch's own, as further tokens with one entry each.
            ones = values.new_ones(len(rows))
            values, indices = torch.cat([values, ones]), torch.cat([indices, rows.int()])
            offsets = torch.cat([offsets, offsets[-1] + uniform_offsets(len(rows), 1, x.device)[1:]])
            share = 2 * alpha / (n * d)
            bias_slopes, slopes = torch.cat([slopes, made.bias * share]), torch.cat([slopes, ones])
            residual = torch.cat([residual, made.decoder.mul_(alpha)])
            inputs = torch.cat([centred, made.encoder.mul_(share)])
        elif size:
            step_stats.aux("gathered", len(rows), size)
            alpha = self.cfg.aux_coefficient
            w_dead = self.W_dec[rows]
            aux_code = ops.topk_encode(centred, self.W_enc_rows[rows], bias, size)
            z = aux_code.values.reshape(-1)
            local = aux_code.indices.reshape(-1)
            at = uniform_offsets(n, size, x.device)
            token_aux, left, slope = ops.decode_loss_rows(z, local, at, w_dead, torch.zeros_like(self.b_dec), -residual)
            aux = token_aux.mean() * dead.any()
            loss = mse + alpha * aux
            # The dead features' entries stand below the batch's own, as n further tokens with their own residual.
            values = torch.cat([values, z])
            indices = torch.cat([indices, rows[local.long()].int()])
            offsets = torch.cat([offsets, offsets[-1] + at[1:]])
            slopes = torch.cat([slopes, torch.where(z > 0, slope, 0).mul_(alpha / n)])
            residual = torch.cat([residual, left.mul_(alpha)])
            inputs = torch.cat([centred, centred])
        factors = RowFactors(
            indices=indices, offsets=offsets, values=values, residual=residual, decoder_scale=2 / (n * d),
            slopes=slopes, inputs=inputs, w_enc=self.W_enc_rows.detach(), b_dec=b_dec, bias=bias_slopes,
        )  # fmt: skip
        return Gradients(loss, mse, sparsity, aux, l0, fired, factors)
