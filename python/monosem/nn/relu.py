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
from monosem.nn.late import LAG, Late, OnItsWay, capturing, room_for
from monosem.nn.registry import register
from monosem.ops import SparseCode, gpu
from monosem.ops.topk_encode import Rounded

DENSE_ABOVE = 0.1  # share of features active above which dense products beat gathering rows
MOST_SLOTS = 1024  # on a GPU: entries of a token that the sparse path has room for


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
    cfg: ReLUConfig

    def __init__(
        self, d_in: int, d_sae: int, l1_coefficient: float = 1e-3, *,
        seed: int | None = None, device=None, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__(ReLUConfig(d_in, d_sae, l1_coefficient), device, dtype)
        generator = None if seed is None else torch.Generator(self.W_dec.device).manual_seed(seed)
        # The paper's default Kaiming-uniform of nn.Linear: ±1/√fan_in, each matrix with its own fan-in.
        nn.init.uniform_(self.W_enc_rows, -(d_in**-0.5), d_in**-0.5, generator=generator)
        nn.init.uniform_(self.W_dec, -(d_sae**-0.5), d_sae**-0.5, generator=generator)
        self.normalize_decoder()
        self.register_buffer("density", torch.ones((), dtype=torch.float32, device=device), persistent=False)
        # On a GPU: the most entries of a token, and the mean, in the last steps.
        self.register_buffer(
            "recent", torch.full((LAG, 2), float(d_sae), dtype=torch.float32, device=device), persistent=False
        )
        self._late = Late()

    def expect(self, most: int, mean: float) -> None:
        """Say how many features are active, at most and on average, before a first step has measured it."""
        self.density.fill_(mean / self.cfg.d_sae)
        self.recent.copy_(torch.tensor([float(most), mean], dtype=torch.float32, device="cpu"))

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
        self, x: Tensor, sparsity_scale: float = 1.0, dead: Tensor | None = None, rounded: Rounded | None = None
    ) -> Gradients:
        """The same loss of x [N, d_in] and its gradients, without an autograd graph.

        While more than a tenth of the features fire (the beginning of training) the products are dense, in blocks of
        features; ``density`` holds the share measured in the last batch and decides for the next.

        On a GPU ``recent`` decides, as of ``LAG`` steps ago, so that the host need not wait for the encoder; it also
        says how much room the entries get: twice what they took then. Whether all fit is read while the GPU decodes.
        Where twice as many fire as two steps before, they do not, and the batch is encoded once more, with a wait
        (``redone``). A CUDA graph cannot do that: there tokens whose entries do not fit are not in the means over the
        batch, and are counted (``left_out``).
        """
        if not isinstance(x, Tensor) or not x.numel():
            self.centred(self.some(x))  # says why not
        if not gpu.asynchronous(x):
            made = (self._dense if self.density > DENSE_ABOVE else self._sparse)(x, sparsity_scale)
        else:
            room = self._room(len(x))
            made = self._dense(x, sparsity_scale) if room is None else self._sparse(x, sparsity_scale, room, rounded)
        self.density.copy_(made.l0 / self.cfg.d_sae)
        return made

    def _room(self, n: int) -> tuple[int, int] | None:
        """Entries in all and slots a token; None where the products should be dense."""
        most, mean = self._late.take(self.recent)
        slots = max(256, 1 << int(2 * most).bit_length())
        if mean > DENSE_ABOVE * self.cfg.d_sae or slots > MOST_SLOTS:
            return None
        return room_for(2 * mean * n + slots), slots

    def _sparse(
        self, x: Tensor, sparsity_scale: float, room: tuple[int, int] | None = None, rounded: Rounded | None = None
    ) -> Gradients:
        n, d = x.shape
        centred = self.centred(x)
        fits = left_out = None
        if room is None:
            code = ops.threshold_encode(centred, self.W_enc_rows, self.b_enc)
        else:
            values, indices, offsets, counts, kept = ops.threshold_encode_within(
                centred, self.W_enc_rows, self.b_enc, *room, rounded
            )
            code = SparseCode(values, indices, offsets, self.cfg.d_sae, x.shape[:-1])
            self._late.put(self.recent, torch.stack([counts.amax(), counts.sum() / n]))
            if capturing(x):
                left_out = n - kept.sum()
            else:
                fits = OnItsWay(torch.stack([kept.sum(), counts.sum()]))
        values, indices, offsets = code.csr()
        token_mse, residual, slopes = ops.decode_loss_rows(values, indices, offsets, self.W_dec, self.b_dec, x)
        weight = sparsity_scale * self.cfg.l1_coefficient
        slopes = slopes.add_(weight).div_(n)
        sparsity, l0 = values.sum() / n, code.l0()
        if left_out is not None:  # means over the tokens that are in the code
            share = n / (n - left_out).clamp(min=1)
            token_mse, residual = token_mse * kept * share, residual.mul_((kept * share)[:, None])
            slopes, sparsity, l0 = slopes.mul_(share), sparsity * share, l0 * share
        mse = token_mse.mean()
        b_dec = residual.sum(0).mul_(2 / (n * d))
        factors = RowFactors(
            indices=indices, offsets=offsets, values=values, residual=residual, decoder_scale=2 / (n * d),
            slopes=slopes, inputs=centred, w_enc=self.W_enc_rows.detach(), b_dec=b_dec,
        )  # fmt: skip
        made = Gradients(
            mse + weight * sparsity, mse, sparsity, mse.new_zeros(()), l0, code.fired(), factors, left_out=left_out,
        )  # fmt: skip
        if fits is not None:
            kept, entries = fits.get()  # the GPU has the decoder to go on with
            if kept < n:
                del made, factors, code, values, indices, slopes, residual
                dense = entries > DENSE_ABOVE * self.cfg.d_sae * n
                made = self._dense(x, sparsity_scale, False) if dense else self._sparse(x, sparsity_scale)
                return replace(made, redone=n - kept)
        return made

    def _dense(self, x: Tensor, sparsity_scale: float, noted: bool = True) -> Gradients:
        n, d = x.shape
        weight = sparsity_scale * self.cfg.l1_coefficient
        rows = DenseBlocks(x, self.centred(x), self.W_enc_rows, self.W_dec, self.b_enc, self.b_dec, weight / n)
        active = rows.counts.sum().double()
        if noted and gpu.asynchronous(x):
            self._late.put(self.recent, torch.stack([rows.per_token.amax().double(), active / n]))
        mse, sparsity = (rows.squares / (n * d)).to(x.dtype), (rows.total / n).to(x.dtype)
        return Gradients(
            mse + weight * sparsity, mse, sparsity, mse.new_zeros(()), (active / n).float(), rows.counts > 0, rows,
        )  # fmt: skip
