"""One training step without an autograd graph: gradients in factors, then Adam row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem import ops
from monosem.nn import SAE, Declared, Gradients, Matrix, Rows
from monosem.ops import adam, backend, gpu, step_stats
from monosem.ops.precision import as_given
from monosem.ops.step_stats import StepStats, phase

# Buffers that belonged to the autoencoder itself when the first checkpoints were written.
_IN_CHECKPOINTS = {"capacity.stats_history": "recent", "capacity.density": "density"}


class FastStep:
    """Loss, gradients and Adam of one autoencoder, equal to the autograd path with ``torch.optim.Adam``.

    The gradients of both weight matrices stay in factors; each row is reduced, projected (decoder), given to Adam and
    made unit (decoder) before the next, so that no gradient of size F × D goes to memory. With ``clip`` they do, for
    their norm must be known first.

    On a GPU that multiplies in bfloat16, the optimizer also writes the encoder rows in it, which the next step's
    product reads. Weights that others change are noticed, unless it is done behind PyTorch's back (``.data``): then
    call ``weights_changed``.

    Args:
        adam_state: of the moments of both matrices. ``"fp32"``: 8 bytes a weight; ``"bf16"``: 4; ``"int8"``: 2, with
            two scales a row. What has fewer bits is rounded stochastically, the same way every run.
        lazy_rows: a row of a matrix whose gradient is 0 everywhere in this batch is left as it is: weights and moments
            (as ``torch.optim.SparseAdam``). Otherwise, as with ``torch.optim.Adam``, its momentum moves it on. The
            biases are not lazy; bias corrections count every step.

    Raises:
        ValueError: parameters that are not all float32 or all float64, or not contiguous; or float64 with moments of
            fewer bits.
    """

    def __init__(
        self, sae: SAE, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, adam_state: str = "fp32",
        lazy_rows: bool = False,
    ) -> None:  # fmt: skip
        self.declared = _declared(sae)
        if adam_state not in adam.STATES:
            raise ValueError(f"adam_state: got {adam_state!r}; wanted one of {', '.join(adam.STATES)}")
        if adam_state != "fp32" and sae.W_dec.dtype != torch.float32:
            where = f"{sae.W_dec.dtype} on {sae.W_dec.device}"
            raise ValueError(f"adam_state: got {adam_state!r} for {where}; wanted float32 parameters, or 'fp32'")
        self.sae, self.betas, self.eps, self.lazy_rows = sae, betas, eps, lazy_rows
        self.m, self.v = ({n: self._zeros(n, adam_state, i) for n in self.declared} for i in range(2))
        small = {n: len(t) for n, t in self.m.items() if t.dtype == torch.int8}
        self.scales = {n: torch.zeros(2, f, device=sae.W_dec.device, dtype=torch.float32) for n, f in small.items()}
        self._hyper: tuple = ()  # of the present step
        self._count = 0
        self._steps: Tensor | None = None  # on the device, once lr is
        self._live: Tensor | None = None
        self._by_host: Tensor | None = None  # what is live when the host counts the steps
        self._copy = gpu.empty_copy(sae.W_enc_rows)
        self._copied: tuple[int, int] | None = None

    def _zeros(self, name: str, adam_state: str, which: int) -> Tensor:
        like = getattr(self.sae, name)
        dtype = like.dtype if adam_state == "fp32" or like.ndim < 2 else adam.DTYPES[adam_state][which]
        moment = torch.empty_like(like, requires_grad=False, dtype=dtype)
        backend.large_pages(moment)
        return moment.zero_()

    @property
    def count(self) -> int:
        """Steps taken. Waits for a GPU that counts them itself."""
        return self._count if self._steps is None else int(self._steps)

    @torch.no_grad()
    @as_given
    def __call__(
        self, x: Tensor, lr: float | Tensor | None, sparsity_scale: float = 1.0, clip: float | None = None,
        dead: Tensor | None = None,
    ) -> "StepOutput":  # fmt: skip
        """Update the autoencoder on x [N, d_in].

        Args:
            lr: learning rate. As a 0-dim tensor on the GPU, both it and the number of the step are read there when the
                step runs: a step captured in a CUDA graph then trains on at each replay, with the lr that the tensor
                has by then. None: after ``count_step``.
            dead: bool [d_sae], features that AuxK may use.
        """
        with step_stats.recording() as stats:
            made = self.sae.gradients(x, sparsity_scale, dead, self._fresh_copy())
            self._hyper, norm = self._count_in(lr), None
            if clip is None:
                gradients = made.parameters.update(self)
                phase("adam")
            else:
                gradients = made.parameters.multiplied()
                phase("clip")
                norm = self._clip(gradients, clip)
                phase("adam")
            for name in self.declared:
                if name in gradients:  # the others are updated already
                    self._update(name, gradients[name])
        return StepOutput(made, norm, stats)

    def update_encoder(
        self, name: str, csc: tuple, coef: Tensor, u: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See ``nn.gradients.RowOptimizer``."""
        _, *options = self._options(name)
        return ops.encoder_grad_adam_(*self._state(name), *csc, coef, u, bias, *self._factors(name), *options)

    def update_factors(self, name: str, csc: tuple, coef: Tensor, u: Tensor, scale: float) -> None:
        """See ``nn.gradients.RowOptimizer``."""
        ops.row_grad_adam_(*self._state(name), *csc, coef, u, scale, *self._factors(name), *self._options(name))

    def update_rows(self, name: str, part: slice, gradient: Tensor) -> None:
        """See ``nn.gradients.RowOptimizer``."""
        unit, lazy, live, scales, copy, norms = self._options(name)
        some = None if scales is None else scales[:, part].contiguous()
        copy, norms = (None if t is None else t[part] for t in (copy, norms))
        state, factors = (t[part] for t in self._state(name)), self._factors(name)
        ops.row_adam_(*state, gradient, *factors, unit, lazy, live, some, copy, norms)
        if scales is not None:
            scales[:, part] = some

    def _update(self, name: str, gradient: Tensor) -> None:
        """Adam of a whole parameter."""
        if gradient.ndim > 1:
            return self.update_rows(name, slice(0, len(gradient)), gradient)
        state = (t.view(1, -1) for t in self._state(name))
        return ops.row_adam_(*state, gradient.view(1, -1), *self._factors(name), False, False, self._live_of(name))

    def count_step(self, lr: float) -> None:
        """Count a step that reads its factors from the device: ``self(x, None)``, called or replayed next.

        They are those of ``self(x, lr)`` to the bit. Where somebody else has changed the weights, the encoder's copy is
        made here, outside of what is replayed.
        """
        self._count, self._steps = self.count + 1, None
        if self._by_host is None:
            self._by_host = adam.live_factors(*self.betas, self.eps, self.sae.W_dec.device)
        adam.write_live_(self._by_host, lr, *self.betas, self.eps, self._count)
        self._live = self._by_host
        self._fresh_copy()

    def _count_in(self, lr: float | Tensor | None) -> tuple:
        """Count this step; ``lr, beta1, beta2, eps, step`` for the operations, or what stands there unread."""
        if lr is None:
            return 0.0, *self.betas, self.eps, 1
        if not isinstance(lr, Tensor) or not gpu.runs_kernels(self.sae.W_dec):
            self._count, self._steps, self._live = self.count + 1, None, None
            return float(lr), *self.betas, self.eps, self._count
        if lr.ndim or lr.device != self.sae.W_dec.device:
            raise ValueError(
                f"lr: got {list(lr.shape)} on {lr.device}; wanted a 0-dim tensor on {self.sae.W_dec.device}"
            )
        if self._steps is None or self._live is None:
            self._steps = torch.tensor(self._count, dtype=torch.int64, device=lr.device)
            self._live = adam.live_factors(*self.betas, self.eps, lr.device)
        gpu.advance_live_(self._live, lr, self._steps, *self.betas)
        return 0.0, *self.betas, self.eps, 1

    def _state(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return getattr(self.sae, name).data, self.m[name], self.v[name]

    def _factors(self, name: str) -> tuple:
        """``lr, beta1, beta2, eps, step`` of a parameter."""
        lr, *rest = self._hyper
        return lr * self.declared[name].lr_factor, *rest

    def _live_of(self, name: str) -> Tensor | None:
        """The factors on the device, with the learning rate of this parameter."""
        factor = self.declared[name].lr_factor
        return self._live if self._live is None or factor == 1 else adam.scaled_live(self._live, factor)

    def _options(self, name: str) -> tuple:
        """``unit, lazy, live, scales, copy, norms`` of a matrix."""
        copy = self._copy if name == "W_enc_rows" and self._copy is not None else (None, None)
        declared = self.declared[name]
        is_rows = isinstance(declared, Rows)
        unit, lazy = is_rows and declared.unit, is_rows and self.lazy_rows
        return unit, lazy, self._live_of(name), self.scales.get(name), *copy

    def _fresh_copy(self) -> tuple[Tensor, Tensor] | None:
        """The encoder rows in bfloat16. Our own updates go through ``.data``, which PyTorch does not count."""
        w = self.sae.W_enc_rows
        if self._copy is not None and self._copied != (w.data_ptr(), w._version):
            gpu.round_into(*self._copy, w.data)
            self._copied = w.data_ptr(), w._version
        return self._copy

    def weights_changed(self) -> None:
        """The weights were changed by someone else: forget what was made of them."""
        self._copied = None

    def _clip(self, gradients: dict[str, Tensor], clip: float) -> Tensor:
        """Scale the gradients so that their norm is at most ``clip``; returns the norm before."""
        # The norm is of what Adam will see: unit rows' gradients without their part parallel to each row.
        for name, declared in self.declared.items():
            if isinstance(declared, Rows) and declared.unit:
                w, g = getattr(self.sae, name), gradients[name]
                g.sub_((g * w).sum(-1, keepdim=True) * w)
        every = [gradients[name] for name in self.declared]
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in every]))
        factor = (clip / (norm + 1e-6)).clamp(max=1.0)
        for g in every:
            g.mul_(factor)
        return norm

    @torch.no_grad()
    def reset_features(self, features: Tensor) -> None:
        """Forget Adam's moments of these features (int64 [R]), which got new weights, in every parameter that has an
        entry per feature."""
        self.weights_changed()
        for moments in (self.m, self.v):
            for name, declared in self.declared.items():
                if declared.per_feature:
                    moments[name][features] = 0.0

    def _buffers(self) -> dict[str, Tensor]:
        """The buffers of the autoencoder, by their names in checkpoints."""
        return {_IN_CHECKPOINTS.get(name, name): t for name, t in self.sae.named_buffers()}

    def state_dict(self) -> dict[str, Tensor]:
        """Adam's moments, the step count and the buffers that decide how the next step is computed."""
        state = {f"{k}.{n}": t for k, moments in (("m", self.m), ("v", self.v)) for n, t in moments.items()}
        state |= {f"scales.{n}": t for n, t in self.scales.items()}
        state |= {f"buffer.{n}": t for n, t in self._buffers().items()}
        return state | {"step": torch.tensor(self.count, dtype=torch.int64, device="cpu")}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave. A buffer that an older version did not have keeps what it has."""
        for k, moments in (("m", self.m), ("v", self.v), ("scales", self.scales)):
            for n, t in moments.items():
                t.copy_(state[f"{k}.{n}"])
        for n, t in self._buffers().items():
            if f"buffer.{n}" in state:
                t.copy_(state[f"buffer.{n}"])
        self._count = int(state["step"])
        if self._steps is not None:  # in place: a graph reads it
            self._steps.fill_(self._count)
        self.weights_changed()


class StepOutput:
    """What a step measured: ``loss``, ``mse``, ``sparsity``, ``aux``, ``l0`` (0-dim), ``fired`` (bool [d_sae]).

    ``grad_norm`` is the norm before clipping, 0-dim, or None without clipping; ``redone``, ``left_out`` as in
    ``Gradients``; ``stats``: how it was computed (``ops.step_stats.StepStats``).
    """

    __slots__ = ("aux", "fired", "grad_norm", "l0", "left_out", "loss", "mse", "redone", "sparsity", "stats")

    def __init__(self, made: Gradients, grad_norm: Tensor | None, stats: StepStats) -> None:
        self.loss, self.mse, self.sparsity = made.loss, made.mse, made.sparsity
        self.aux, self.l0, self.fired, self.grad_norm = made.aux, made.l0, made.fired, grad_norm
        self.redone, self.left_out, self.stats = made.redone, made.left_out, stats


def _declared(sae: SAE) -> dict[str, Declared]:
    """The declaration of its parameters, once they are those that it has and can be updated in place."""
    declared, there = sae.declared(), dict(sae.named_parameters())
    if odd := sorted(declared.keys() ^ there.keys()):
        raise ValueError(
            f"sae: {type(sae).__name__}.declared() names {', '.join(declared)}, its parameters are {', '.join(there)} "
            f"({', '.join(odd)} only in one); wanted the same. Add what is missing to declared(): Rows, Vector or "
            "Matrix of monosem.nn."
        )
    for name, p in there.items():
        if p.dtype not in (torch.float32, torch.float64) or p.dtype != sae.W_dec.dtype:
            others = "" if name == "W_dec" else f", W_dec {sae.W_dec.dtype}"
            raise ValueError(
                f"sae: parameter {name} is {p.dtype}{others}; wanted float32 for training. Call `sae.float()`"
            )
        if not p.is_contiguous():
            raise ValueError(
                f"sae: parameter {name} of shape {list(p.shape)} has strides {list(p.stride())}; wanted it contiguous, "
                f"to be updated in place. Write `sae.{name}.data = sae.{name}.data.contiguous()`"
            )
        wanted = 2 if isinstance(declared[name], Rows | Matrix) else 1
        if p.ndim != wanted or (declared[name].per_feature and len(p) != sae.cfg.d_sae):
            raise ValueError(
                f"sae: parameter {name} of shape {list(p.shape)} is declared as {declared[name]}; wanted {wanted} "
                f"axes, the first of d_sae={sae.cfg.d_sae} where it is per feature. Correct "
                f"{type(sae).__name__}.declared()."
            )
    return declared
