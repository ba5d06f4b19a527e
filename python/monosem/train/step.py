"""One training step without an autograd graph: gradients in factors, then Adam row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem import ops
from monosem.nn import SAE, DenseRows, Gradients, RowFactors
from monosem.ops import backend

PARAMETERS = ("W_enc_rows", "W_dec", "b_enc", "b_dec")


class FastStep:
    """Loss, gradients and Adam of one autoencoder, equal to the autograd path with ``torch.optim.Adam``.

    The gradients of both weight matrices stay in factors; each row is reduced, projected (decoder), given to Adam and
    made unit (decoder) before the next, so that no gradient of size F × D goes to memory. With ``clip`` they do, for
    their norm must be known first.

    Args:
        adam_state: ``"fp32"``, or ``"bf16"`` to keep the moments of both matrices in half the memory, rounded
            stochastically (the same way every run). CPU only.
    """

    def __init__(
        self, sae: SAE, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, adam_state: str = "fp32"
    ) -> None:
        if sae.W_dec.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"sae: parameters are {sae.W_dec.dtype}; wanted float32 for training. Call `sae.float()`")
        self.sae, self.betas, self.eps = sae, betas, eps
        self.count = 0
        if adam_state == "bf16" and not (backend.use_native() and sae.W_dec.device.type == "cpu"
                                         and sae.W_dec.dtype == torch.float32):  # fmt: skip
            where = f"{sae.W_dec.dtype} on {sae.W_dec.device}"
            raise ValueError(f"adam_state: got 'bf16' for {where}; the kernels that round it are for float32 on CPUs")
        for name in PARAMETERS[:2]:
            backend.large_pages(getattr(sae, name))
        self.m, self.v = ({n: self._zeros(n, adam_state) for n in PARAMETERS} for _ in range(2))

    def _zeros(self, name: str, adam_state: str) -> Tensor:
        like = getattr(self.sae, name)
        moment = torch.empty_like(
            like, requires_grad=False, dtype=torch.bfloat16 if adam_state == "bf16" and like.ndim == 2 else like.dtype
        )
        backend.large_pages(moment)
        return moment.zero_()

    @torch.no_grad()
    def __call__(
        self, x: Tensor, lr: float, sparsity_scale: float = 1.0, clip: float | None = None, dead: Tensor | None = None
    ) -> "StepOutput":
        """Update the autoencoder on x [N, d_in]."""
        made = self.sae.gradients(x, sparsity_scale, dead)
        self.count += 1
        rows = made.rows
        if isinstance(rows, RowFactors):
            starts, entries, tokens = ops.csc(rows.indices, rows.offsets, self.sae.cfg.d_sae)
            b_enc = ops.feature_sum(starts, entries, rows.slopes)
            decoder = (starts, entries, tokens, rows.values, rows.residual)
            encoder = (starts, entries, tokens, rows.slopes, rows.inputs)
            if clip is not None:
                rows = DenseRows(ops.row_grad(*encoder), ops.row_grad(*decoder).mul_(rows.decoder_scale), b_enc)
        if isinstance(rows, DenseRows):
            b_enc = rows.b_enc
        # b_dec also enters through the encoder's input x − b_dec; with the weights as they were in the forward pass.
        b_dec = made.b_dec - b_enc @ self.sae.W_enc_rows
        norm = None
        if isinstance(rows, DenseRows):
            norm = self._clip(rows, b_dec, clip)
            self._adam("W_enc_rows", rows.w_enc, lr)
            self._adam("W_dec", rows.w_dec, lr, unit=True)
        else:
            self._row_adam("W_enc_rows", encoder, 1.0, lr)
            self._row_adam("W_dec", decoder, rows.decoder_scale, lr, unit=True)
        self._adam("b_enc", b_enc, lr)
        self._adam("b_dec", b_dec, lr)
        return StepOutput(made, norm)

    def _clip(self, rows: DenseRows, b_dec: Tensor, clip: float | None) -> Tensor | None:
        if clip is None:
            return None
        # The norm is of what Adam will see: the decoder's gradient without its part parallel to each row.
        w = self.sae.W_dec
        rows.w_dec.sub_((rows.w_dec * w).sum(-1, keepdim=True) * w)
        gradients = [rows.w_enc, rows.w_dec, rows.b_enc, b_dec]
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
        factor = (clip / (norm + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factor)
        return norm

    def _adam(self, name: str, g: Tensor, lr: float, unit: bool = False) -> None:
        rows = (t.view(-1, t.shape[-1]) for t in (getattr(self.sae, name).data, self.m[name], self.v[name], g))
        ops.row_adam_(*rows, lr, *self.betas, self.eps, self.count, unit)

    def _row_adam(self, name: str, factors: tuple, scale: float, lr: float, unit: bool = False) -> None:
        w = getattr(self.sae, name).data
        ops.row_grad_adam_(w, self.m[name], self.v[name], *factors, scale, lr, *self.betas, self.eps, self.count, unit)

    @torch.no_grad()
    def reset_features(self, features: Tensor) -> None:
        """Forget Adam's moments of these features (int64 [R]): their rows in both matrices and the encoder bias."""
        for moments in (self.m, self.v):
            for name in ("W_enc_rows", "W_dec", "b_enc"):
                moments[name][features] = 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """Adam's moments, the step count and the buffers that decide how the next step is computed."""
        state = {f"{k}.{n}": t for k, moments in (("m", self.m), ("v", self.v)) for n, t in moments.items()}
        state |= {f"buffer.{n}": t for n, t in self.sae.named_buffers()}
        return state | {"step": torch.tensor(self.count, dtype=torch.int64)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave."""
        for k, moments in (("m", self.m), ("v", self.v)):
            for n, t in moments.items():
                t.copy_(state[f"{k}.{n}"])
        for n, t in self.sae.named_buffers():
            t.copy_(state[f"buffer.{n}"])
        self.count = int(state["step"])


class StepOutput:
    """What a step measured: ``loss``, ``mse``, ``sparsity``, ``aux``, ``l0`` (0-dim), ``fired`` (bool [d_sae]).

    ``grad_norm`` is the norm before clipping, 0-dim, or None without clipping.
    """

    __slots__ = ("aux", "fired", "grad_norm", "l0", "loss", "mse", "sparsity")

    def __init__(self, made: Gradients, grad_norm: Tensor | None) -> None:
        self.loss, self.mse, self.sparsity = made.loss, made.mse, made.sparsity
        self.aux, self.l0, self.fired, self.grad_norm = made.aux, made.l0, made.fired, grad_norm
