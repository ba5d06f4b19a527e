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
from monosem.ops.step_stats import phase
from monosem.ops.structs import EncoderCopy


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
    cfg: TopKConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int = 32,
        aux_k: int | str | None = "auto",
        aux_coefficient: float = 1 / 32,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(TopKConfig(d_in, d_sae, k, aux_k, aux_coefficient), device, dtype)
        generator = None if seed is None else torch.Generator(self.W_dec.device).manual_seed(seed)
        nn.init.normal_(self.W_dec, generator=generator)
        self.normalize_decoder()
        with torch.no_grad():
            self.W_enc_rows.copy_(self.W_dec)
        self.capacity: DeadFeatureCapacity = DeadFeatureCapacity(d_sae, used=bool(self._most_aux()), device=device)  # pyright: ignore[reportIncompatibleVariableOverride]

    def encode(self, x: Tensor) -> SparseCode:
        """The k largest features of each token; ``values`` and ``indices`` are [..., k]."""
        return ops.topk_encode(self.centred(x), self.W_enc_rows, self.b_enc, self.cfg.k)

    def _most_aux(self) -> int:
        """Dead features that AuxK uses per token, if so many are dead."""
        aux_k = self.cfg.aux_k if isinstance(self.cfg.aux_k, int) else self.cfg.d_in // 2
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
        rows = dead.nonzero()[:, 0] if dead is not None else self.b_enc.new_zeros(0, dtype=torch.int64)
        if size := self._aux_size(len(rows)):
            aux_code = ops.topk_encode(centred, self.W_enc_rows[rows], self.b_enc[rows], size)
            no_bias = torch.zeros_like(self.b_dec)
            token_aux, _ = ops.decode_loss(aux_code, self.W_dec[rows], no_bias, -residual.detach())
            aux = token_aux.mean()
        sparsity = code.values.sum(-1).mean()
        loss = mse + self.cfg.aux_coefficient * aux
        return LossOutput(loss, mse, sparsity, aux, x + residual, code)

    @torch.no_grad()
    def gradients(
        self,
        x: Tensor,
        sparsity_scale: float = 1.0,
        dead: Tensor | None = None,
        encoder_copy: EncoderCopy | None = None,
    ) -> Gradients:
        """The same loss of x [N, d_in] and its gradients, without an autograd graph.

        While few features are dead, AuxK multiplies with all of them (``nn/auxk.py``). On a GPU it may leave out some
        of those that died in the last steps (``ops/capacity.py``).
        """
        phase("encode")
        centred = self.centred(self.some(x))
        n, d = x.shape
        code = ops.topk_encode(centred, self.W_enc_rows, self.b_enc, self.cfg.k, encoder_copy)
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
        inputs, bias_slopes = centred, None
        if dead is not None and (extra := self._aux_tokens(dead, centred, residual)) is not None:
            aux = extra.loss * dead.any()
            loss = mse + self.cfg.aux_coefficient * aux
            values, indices = torch.cat([values, extra.values]), torch.cat([indices, extra.indices])
            offsets = torch.cat([offsets, offsets[-1] + extra.offsets[1:]])
            bias_slopes = None if extra.bias is None else torch.cat([slopes, extra.bias])
            slopes = torch.cat([slopes, extra.slopes])
            residual, inputs = torch.cat([residual, extra.residual]), torch.cat([inputs, extra.inputs])
        factors = RowFactors(
            indices=indices,
            offsets=offsets,
            values=values,
            residual=residual,
            decoder_scale=2 / (n * d),
            slopes=slopes,
            inputs=inputs,
            w_enc=self.W_enc_rows.detach(),
            b_dec=b_dec,
            bias=bias_slopes,
        )
        return Gradients(loss=loss, mse=mse, sparsity=sparsity, aux=aux, l0=l0, fired=fired, parameters=factors)

    def _aux_tokens(self, dead: Tensor, centred: Tensor, residual: Tensor) -> auxk.ExtraTokens | None:
        """The entries of AuxK on the dead features (bool [F]); None where it is off or none is dead."""
        if not self._most_aux():
            return None
        numbers, bias = self.capacity.rows(dead, self.b_enc)
        if not (size := self._aux_size(len(numbers))):
            return None
        features = auxk.DeadFeatures(numbers, self.W_enc_rows[numbers], bias, self.W_dec[numbers])
        by_products = self.capacity.products_are_cheaper(len(numbers), size)
        step_stats.aux("dense" if by_products else "gathered", len(numbers), size)
        form = auxk.by_products if by_products else auxk.by_gathering
        return form(features, centred, residual, size, self.cfg.aux_coefficient)
