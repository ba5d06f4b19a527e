"""One training step without an autograd graph: gradients in factors, then Adam row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch import Tensor

from monosem import ops
from monosem.nn import SAE, Declared, Gradients, Matrix, Rows
from monosem.nn.gradients import Csc
from monosem.ops import adam, backend, gpu, step_stats
from monosem.ops.precision import as_given
from monosem.ops.seen import Seen
from monosem.ops.step_stats import StepStats, phase
from monosem.ops.structs import EncoderCopy

# Buffers that belonged to the autoencoder itself when the first checkpoints were written.
_IN_CHECKPOINTS = {"capacity.stats_history": "recent", "capacity.density": "density"}


class AdamFactors(TypedDict):
    """Adam's arguments of a step."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    step: int


class AdamOptions(AdamFactors):
    """The arguments that all of ``ops.row_adam_`` and its fused forms take by keyword."""

    lazy: bool
    live: Tensor | None
    scales: Tensor | None
    copy: Tensor | None
    norms: Tensor | None


class FastStep:
    """Loss, gradients and Adam of one autoencoder, equal to the autograd path with ``torch.optim.Adam``.

    The gradients of both weight matrices stay in factors; each row is reduced, projected (decoder), given to Adam and
    made unit (decoder) before the next, so that no gradient of size F × D goes to memory. With ``clip`` they do, for
    their norm must be known first.

    On a GPU that multiplies in low precision, the optimizer also writes the encoder rows in it (``EncoderCopy``), which
    the next step's product reads. Changes of the weights by others are detected by PyTorch's version counter. It does
    not count those of ``.data``: call ``weights_changed`` after them.

    Args:
        adam_state: type of the moments of both matrices. ``"fp32"``: 8 bytes per weight; ``"bf16"``: 4; ``"int8"``: 2,
            with two scales per row. Fewer bits than fp32 are rounded stochastically, the same way every run.
        lazy_rows: a row of a matrix whose gradient is 0 everywhere in this batch is not updated, nor are its moments
            (as in ``torch.optim.SparseAdam``). Otherwise, as in ``torch.optim.Adam``, its momentum moves it. The
            biases are not lazy; bias corrections count every step.

    Raises:
        ValueError: parameters that are not all float32 or all float64, or not contiguous; or float64 with moments of
            fewer bits.
    """

    def __init__(
        self,
        sae: SAE,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adam_state: str = "fp32",
        lazy_rows: bool = False,
    ) -> None:
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
        self._now = self._factors_of(0.0, 1)  # the factors of the present step
        self._count = 0
        self._steps: Tensor | None = None  # the count, on the device once lr is there
        self._live: Tensor | None = None  # factors that are read on the device when the step runs
        self._live_by_host: Tensor | None = None  # their memory when the host counts the steps
        rows = gpu.empty_copy(sae.W_enc_rows)
        self._encoder_copy = None if rows is None else EncoderCopy(*rows)
        self._copied = Seen()  # the weights that the copy was made from

    def _zeros(self, name: str, adam_state: str, which: int) -> Tensor:
        like = getattr(self.sae, name)
        dtype = like.dtype if adam_state == "fp32" or like.ndim < 2 else adam.DTYPES[adam_state][which]
        moment = torch.empty_like(like, requires_grad=False, dtype=dtype)
        backend.large_pages(moment)
        return moment.zero_()

    @property
    def count(self) -> int:
        """Steps taken. Synchronises with a GPU that counts them itself."""
        return self._count if self._steps is None else int(self._steps)

    @torch.no_grad()
    @as_given
    def __call__(
        self,
        x: Tensor,
        lr: float | Tensor | None,
        sparsity_scale: float = 1.0,
        clip: float | None = None,
        dead: Tensor | None = None,
    ) -> StepOutput:
        """Update the autoencoder on x [N, d_in].

        Args:
            lr: learning rate. As a 0-dim tensor on the GPU, both it and the number of the step are read there when the
                step runs: a step captured in a CUDA graph then trains on at each replay, with the lr that the tensor
                has by then. None: after ``count_step``.
            dead: bool [d_sae], features that AuxK may use.
        """
        self.sae.changed()
        with step_stats.recording() as stats:
            with self._frequency_known():
                gradients = self.sae.gradients(x, sparsity_scale, dead, self._current_encoder_copy())
            gradients = self.sae.shard.of_all_tokens(gradients)
            self._now, norm = self._count_in(lr), None
            if clip is None:
                arrays = gradients.parameters.update(self)
                phase("adam")
            else:
                arrays = gradients.parameters.multiplied()
                phase("clip")
                norm = self._clip(arrays, clip)
                phase("adam")
            for name in self.declared:
                if name in arrays:  # the others are updated already
                    self._update(name, arrays[name])
        return StepOutput(gradients, norm, stats)

    @contextmanager
    def _frequency_known(self) -> Iterator[None]:
        """How often each feature is active, while the encoder may use it.

        Adam's second moment of an encoder bias is a mean over recent steps of squares, which grow with the tokens that
        the feature fires on. It is in every checkpoint: a resumed run compares in the same order.
        """
        self.sae.frequency = self.v["b_enc"] if "b_enc" in self.v and not gpu.runs_kernels(self.sae.b_enc) else None
        try:
            yield
        finally:
            self.sae.frequency = None

    def update_encoder(
        self, name: str, csc: Csc, coef: Tensor, u: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See ``nn.gradients.RowOptimizer``."""
        return ops.encoder_grad_adam_(*self._state(name), *csc, coef, u, bias, **self._options(name))

    def update_factors(self, name: str, csc: Csc, coef: Tensor, u: Tensor, scale: float, own: Tensor | None) -> None:
        """See ``nn.gradients.RowOptimizer``."""
        unit, options = self._is_unit(name), self._options(name)
        ops.row_grad_adam_(*self._state(name), *csc, coef, u, scale, unit=unit, own=own, **options)

    def update_rows(self, name: str, part: slice, gradient: Tensor) -> None:
        """See ``nn.gradients.RowOptimizer``."""
        (w, m, v), options = self._state(name), self._options(name)
        copy = options["copy"]
        options["copy"] = None if copy is None else copy[part]
        # Scales and norms have a column per row: those of some rows are not contiguous, as the kernels need them.
        scales, norms = options["scales"], options["norms"]
        options["scales"], options["norms"] = (None if t is None else t[:, part].contiguous() for t in (scales, norms))
        ops.row_adam_(w[part], m[part], v[part], gradient, unit=self._is_unit(name), **options)
        for all_rows, updated in ((scales, options["scales"]), (norms, options["norms"])):
            if all_rows is not None and updated is not None:
                all_rows[:, part] = updated

    def _update(self, name: str, gradient: Tensor) -> None:
        """Adam of all elements of a parameter."""
        if gradient.ndim > 1:
            self.update_rows(name, slice(0, len(gradient)), gradient)
            return
        w, m, v, g = (t.view(1, -1) for t in (*self._state(name), gradient))
        ops.row_adam_(w, m, v, g, unit=False, live=self._live_of(name), **self._factors(name))

    def count_step(self, lr: float) -> None:
        """Count a step that reads its factors from the device: ``self(x, None)``, called or replayed next.

        They are those of ``self(x, lr)`` to the bit. Where others have changed the weights, the encoder's copy is made
        here, outside of the replayed graph.
        """
        self._count, self._steps = self.count + 1, None
        if self._live_by_host is None:
            self._live_by_host = adam.live_factors(*self.betas, self.eps, self.sae.W_dec.device)
        adam.write_live_(self._live_by_host, lr, *self.betas, self.eps, self._count)
        self._live = self._live_by_host
        self._current_encoder_copy()

    def _factors_of(self, lr: float, step: int) -> AdamFactors:
        beta1, beta2 = self.betas
        return {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": self.eps, "step": step}

    def _count_in(self, lr: float | Tensor | None) -> AdamFactors:
        """Count this step; its factors, or unused numbers where they are read on the device."""
        unused = self._factors_of(0.0, 1)
        if lr is None:
            return unused
        if not isinstance(lr, Tensor) or not gpu.runs_kernels(self.sae.W_dec):
            self._count, self._steps, self._live = self.count + 1, None, None
            return self._factors_of(float(lr), self._count)
        if lr.ndim or lr.device != self.sae.W_dec.device:
            raise ValueError(
                f"lr: got {list(lr.shape)} on {lr.device}; wanted a 0-dim tensor on {self.sae.W_dec.device}"
            )
        if self._steps is None or self._live is None:
            self._steps = torch.tensor(self._count, dtype=torch.int64, device=lr.device)
            self._live = adam.live_factors(*self.betas, self.eps, lr.device)
        gpu.advance_live_(self._live, lr, self._steps, *self.betas)
        return unused

    def _state(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return getattr(self.sae, name).data, self.m[name], self.v[name]

    def _factors(self, name: str) -> AdamFactors:
        """The factors, with the learning rate of this parameter."""
        return {**self._now, "lr": self._now["lr"] * self.declared[name].lr_factor}

    def _live_of(self, name: str) -> Tensor | None:
        """The factors on the device, with the learning rate of this parameter."""
        factor = self.declared[name].lr_factor
        return self._live if self._live is None or factor == 1 else adam.scaled_live(self._live, factor)

    def _is_unit(self, name: str) -> bool:
        declared = self.declared[name]
        return isinstance(declared, Rows) and declared.unit

    def _options(self, name: str) -> AdamOptions:
        """The arguments of a matrix."""
        copy = self._encoder_copy if name == "W_enc_rows" else None
        return {
            **self._factors(name),
            "lazy": self.lazy_rows and isinstance(self.declared[name], Rows),
            "live": self._live_of(name),
            "scales": self.scales.get(name),
            "copy": None if copy is None else copy.rows,
            "norms": None if copy is None else copy.norms,
        }

    def _current_encoder_copy(self) -> EncoderCopy | None:
        """The encoder rows in low precision, made again where others have changed the weights.

        The updates of this step go through ``.data``, which PyTorch does not count.
        """
        w = self.sae.W_enc_rows
        if self._encoder_copy is not None and not self._copied.is_still(w):
            gpu.round_into(*self._encoder_copy, w.data)
            self._copied = Seen(w)
        return self._encoder_copy

    def weights_changed(self) -> None:
        """The weights were changed by others: the encoder's copy is out of date."""
        self._copied = Seen()

    def _clip(self, gradients: dict[str, Tensor], clip: float) -> Tensor:
        """Scale the gradients so that their norm is at most ``clip``; returns the norm before."""
        # The norm is that of Adam's inputs: the gradients of unit rows have no part parallel to their row.
        for name, declared in self.declared.items():
            if isinstance(declared, Rows) and declared.unit:
                w, g = getattr(self.sae, name), gradients[name]
                g.sub_((g * w).sum(-1, keepdim=True) * w)
        arrays = [gradients[name] for name in self.declared]
        norm = self._norm(gradients)
        factor = (clip / (norm + 1e-6)).clamp(max=1.0)
        for g in arrays:
            g.mul_(factor)
        return norm

    def _norm(self, gradients: dict[str, Tensor]) -> Tensor:
        """The norm of all gradients together, 0-dim."""
        shard = self.sae.shard
        if shard.is_whole:
            return torch.linalg.vector_norm(torch.stack([gradients[name].norm() for name in self.declared]))
        squares = {n: g.norm().square() for n, g in gradients.items()}
        of_rows = torch.stack([squares[n] for n, d in self.declared.items() if d.per_feature]).sum()
        return sum(
            (squares[n] for n, d in self.declared.items() if not d.per_feature), shard.sum_features(of_rows)
        ).sqrt()

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
        """Restore ``state_dict``. A buffer that an older version did not have keeps its value."""
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
    """The measurements of a step: ``loss``, ``mse``, ``sparsity``, ``aux``, ``l0`` (0-dim), ``fired`` (bool [d_sae]).

    ``grad_norm`` is the norm before clipping, 0-dim, or None without clipping; ``redone``, ``left_out`` as in
    ``Gradients``; ``stats``: how it was computed (``ops.step_stats.StepStats``).
    """

    __slots__ = ("aux", "fired", "grad_norm", "l0", "left_out", "loss", "mse", "redone", "sparsity", "stats")

    def __init__(self, gradients: Gradients, grad_norm: Tensor | None, stats: StepStats) -> None:
        self.loss, self.mse, self.sparsity = gradients.loss, gradients.mse, gradients.sparsity
        self.aux, self.l0, self.fired, self.grad_norm = gradients.aux, gradients.l0, gradients.fired, grad_norm
        self.redone, self.left_out, self.stats = gradients.redone, gradients.left_out, stats


def _declared(sae: SAE) -> dict[str, Declared]:
    """The declaration of its parameters, once they are those that it has and can be updated in place."""
    declared, parameters = sae.declared(), dict(sae.named_parameters())
    if odd := sorted(declared.keys() ^ parameters.keys()):
        raise ValueError(
            f"sae: {type(sae).__name__}.declared() names {', '.join(declared)}, its parameters are "
            f"{', '.join(parameters)} ({', '.join(odd)} only in one); wanted the same. Add what is missing to "
            "declared(): Rows, Vector or Matrix of monosem.nn."
        )
    for name, p in parameters.items():
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
        axes = 2 if isinstance(declared[name], Rows | Matrix) else 1
        if p.ndim != axes or (declared[name].per_feature and len(p) != sae.n_held):
            raise ValueError(
                f"sae: parameter {name} of shape {list(p.shape)} is declared as {declared[name]}; wanted {axes} "
                f"axes, the first of d_sae={sae.n_held} where it is per feature. Correct "
                f"{type(sae).__name__}.declared()."
            )
    return declared
