"""An autoencoder composed of parts: its loss by definition, and the same with gradients in sparse factors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor, nn

from monosem import ops
from monosem.nn import composed_step, starting_l0
from monosem.nn.activations import Vectors
from monosem.nn.auxk import DeadFeatures
from monosem.nn.base import SAE, LossOutput
from monosem.nn.composed_step import Batch
from monosem.nn.composition import Composition
from monosem.nn.config import SAEConfig
from monosem.nn.gradients import Gradients
from monosem.nn.nesting import fit
from monosem.nn.parameters import Vector
from monosem.nn.penalties import L1
from monosem.nn.pointwise import terms
from monosem.ops import SparseCode, scratch
from monosem.ops.capacity import EncoderInputs, Step
from monosem.ops.step_stats import phase
from monosem.ops.structs import EncoderCopy


class ComposedSAE(SAE):
    r"""``L = mean_D (x − x̂)² + penalty + revival``, mean over tokens; presets say which (``composition``).

    ``loss`` is the definition. ``gradients`` is the same in sparse factors, checked against autograd on ``loss``.
    """

    def __init__(
        self, cfg: SAEConfig, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(cfg, device, dtype)
        for name, declared in self.declared().items():
            if isinstance(declared, Vector) and declared.initial is not None:
                initial = torch.full((self.n_held,), float(declared.initial), device=device, dtype=dtype)
                self.register_parameter(name, nn.Parameter(initial))
        self.extend(device, dtype)
        parts = self.composition
        parts.check(cfg.d_sae)
        self.capacity = parts.capacity(cfg.d_sae, device)

    def extend(self, device: torch.device | str | None, dtype: torch.dtype) -> None:
        """Add further parameters and buffers; those vectors that ``declared`` gives an initial value are there."""

    def measure(self, sample: Tensor) -> None:
        starting_l0.measure(self, sample)

    @property
    @abstractmethod
    def composition(self) -> Composition:
        """The parts, by the configuration and the present ``progress``."""

    @property
    def held(self) -> Composition:
        """The parts as they are computed here, where only a shard of the features may be."""
        parts = self.composition
        return parts if self.shard.is_whole else parts.held(self.shard.rows(self.cfg.d_sae), self.cfg.d_sae)

    def begin(self, x: Tensor) -> None:
        """Set what the parts of a step take from its batch, before ``composition``: here nothing."""

    def settings_now(self) -> Hashable:
        return self.composition

    def encode(self, x: Tensor) -> SparseCode:
        """The active features of x [..., d_in], each token by itself."""
        self._all_here("encode")
        return self._encoded(x)

    def _encoded(self, x: Tensor) -> SparseCode:
        """The entries of the features that are here."""
        activation = self.held.activation
        return activation.encode(self.inputs(self.centred(x), self.prepared()), self.vectors(activation.vectors))

    def _all_here(self, method: str) -> None:
        if not self.shard.is_whole:
            rows = self.shard.rows(self.cfg.d_sae)
            raise RuntimeError(
                f"{method}: this process has features {rows.start:,} to {rows.stop - 1:,} of {self.cfg.d_sae:,}; "
                "wanted all. Train it by Trainer(sae, config, folder, mesh=…), and read the result by "
                "monosem.load(folder)."
            )

    def decode(self, code: SparseCode) -> Tensor:
        self._all_here("decode")
        return super().decode(code)

    @property
    def target_is_input(self) -> bool:
        """Whether ``source`` and ``target`` give the batch itself."""
        return True

    def target_gradients(self, x: Tensor, of_reconstruction: Tensor, scale: float) -> dict[str, Tensor]:
        """Gradients of the parameters that ``target`` reads; that of x̂ is ``scale · of_reconstruction`` [N, d_out]."""
        return {}

    def norms(self) -> Tensor:
        """Norms of the blocks of each decoder row, [d_sae, B]: here of the whole row, B = 1."""
        return self.W_dec.norm(dim=1, keepdim=True)

    def loss(self, x: Tensor, sparsity_scale: float = 1.0, dead: Tensor | None = None) -> LossOutput:
        """The loss of x [..., d_in]; ``dead`` marks the features that may be revived."""
        self._all_here("loss")
        self.begin(x)
        parts, centred = self.composition, self.centred(self.source(self.some(x)))
        shape, x, centred = x.shape[:-1], x.reshape(-1, x.shape[-1]), centred.reshape(-1, centred.shape[-1])
        target = self.target(x)
        inputs, vectors = self.inputs(centred), self.vectors(parts.vectors)
        chosen = parts.ordered(parts.activation.choose(inputs, vectors))
        h, indices, offsets = chosen.csr()
        norms = self.norms() if parts.by_norm else None
        entries = terms(
            parts.activation,
            parts.penalty,
            parts.pre_activation,
            h,
            {name: v[indices.long()] for name, v in vectors.items()},
            None if norms is None else norms.sum(1)[indices.long()],
        )
        whole = fit(entries.f, indices, offsets, self.W_dec, self.b_dec, target, parts.nesting)
        n, loss, mse = len(x), whole.losses.mean(), whole.mse.mean()
        code = replace(chosen, values=entries.f.view(chosen.values.shape))
        sparsity = code.l1() if entries.penalty is None else entries.penalty.sum() / n
        if parts.penalty is not None:
            loss = loss + parts.penalty.weight(sparsity_scale) * parts.penalty.of_mean(sparsity)
        if parts.pre_activation is not None and entries.inactive is not None and norms is not None:
            of_all = parts.pre_activation.over_all(
                centred.sum(0), n, self.W_enc_rows, self.b_enc, vectors["threshold"], norms.sum(1)
            )
            inactive = of_all.sum() + entries.inactive.sum() / n
            loss = loss + sparsity_scale * parts.pre_activation.coefficient * inactive
        if entries.gate is not None:
            fixed = target if self.target_is_input else target.detach()  # it may depend on parameters
            frozen = fit(entries.gate, indices, offsets, self.W_dec.detach(), self.b_dec.detach(), fixed, None)
            loss = loss + frozen.losses.mean()
        aux = mse.new_zeros(())
        if parts.revival is not None and dead is not None:
            numbers = dead.nonzero()[:, 0]
            aux = parts.revival.loss(self.rows(numbers, self.b_enc[numbers]), centred, whole.residual)
            loss = loss + parts.revival.coefficient * aux
        reconstruction = self.reconstructed(x, whole.residual).reshape(*shape, -1)
        return LossOutput(loss, mse, sparsity, aux, reconstruction, composed_step.used_code(chosen, entries.f, shape))

    def reconstructed(self, x: Tensor, residual: Tensor) -> Tensor:
        """x̂ of a batch from its residual: here ``x + residual``."""
        return x + residual

    @torch.no_grad()
    def token_losses(self, x: Tensor, sparsity_scale: float = 1.0) -> Tensor:
        """``mean_D (x − x̂)²`` and the penalty of each token, float32 [N]."""
        parts = self.held
        penalty = parts.penalty
        if self.shard.is_whole:
            code = self.encode(self.source(x))
            decoded = self.decode(code)
        else:
            code = self._encoded(self.source(x))
            decoded = self.shard.sum_features(ops.decode(code, self.W_dec, torch.zeros_like(self.b_dec))) + self.b_dec
        losses = (self.target(x) - decoded).float().square().mean(-1)
        if penalty is None or not (weight := penalty.weight(sparsity_scale)):
            return losses
        if isinstance(penalty, L1):
            return losses.add_(weight * self.shard.sum_features(penalty.of_code(code)))
        vectors = self.vectors(parts.vectors)
        h, indices, offsets = parts.activation.choose(self.inputs(self.centred(self.source(x))), vectors).csr()
        i = indices.long()
        norms = self.norms().sum(1)[i] if parts.by_norm else None
        entries = terms(parts.activation, penalty, None, h, {name: v[i] for name, v in vectors.items()}, norms)
        assert entries.penalty is not None
        return losses.add_(weight * self.shard.sum_features(penalty.of_tokens(entries.penalty, offsets)))

    @torch.no_grad()
    def restart_features(self, features: Tensor, inputs: Tensor, alive: Tensor, factor: float) -> None:
        """As of ``SAE``; elements of vectors that have an initial value are set to it."""
        super().restart_features(features, inputs, alive, factor)
        starting_l0.restart(self, features, inputs)
        for name, declared in self.declared().items():
            if isinstance(declared, Vector) and declared.initial is not None:
                getattr(self, name)[features] = declared.initial

    @torch.no_grad()
    def gradients(
        self,
        x: Tensor,
        sparsity_scale: float = 1.0,
        dead: Tensor | None = None,
        encoder_copy: EncoderCopy | None = None,
    ) -> Gradients:
        """The same loss of x [N, d_in] and its gradients, without an autograd graph.

        While many features are active, the products are dense, in blocks of features; while few features are dead,
        AuxK multiplies with all of them (``ops/capacity.py`` decides). In a CUDA graph the means are over the tokens
        whose entries fit; the others are counted (``left_out``), and AuxK may leave out features that have just died.
        """
        self.begin(x)
        parts = self.held
        # A dense step does not encode: only there, centring is a phase of its own.
        phase("centre") if parts.activation.has_dense_form else phase("encode")
        x = x if self.shard.splits_tokens else self.some(x)  # a share of the tokens may be none of them
        batch = Batch(x, self.centred(self.source(x)), self.target(x), sparsity_scale)
        vectors = self.vectors(parts.vectors)
        step = Step(
            inputs=parts.activation.above(self.inputs(batch.centred, encoder_copy), vectors),
            sparse=lambda encoded: composed_step.sparse(self, batch, encoded, dead),
            dense=(lambda: composed_step.dense(self, batch)) if composed_step.may_be_dense(self) else None,
        )
        gradients, redone = parts.activation.run(step, self.capacity, vectors)
        return replace(gradients, redone=redone) if redone else gradients

    def inputs(self, centred: Tensor, encoder_copy: EncoderCopy | None = None) -> EncoderInputs:
        """What the encoder is given for its input [..., d_in]."""
        return EncoderInputs(
            centred, self.W_enc_rows, self.b_enc, encoder_copy, frequency=self.frequency, shard=self.shard
        )

    def vectors(self, names: tuple[str, ...]) -> Vectors:
        """Parameters [d_sae] by name."""
        return {name: getattr(self, name) for name in names}

    def rows(self, numbers: Tensor, bias: Tensor) -> DeadFeatures:
        """Features (int64 [R]) with encoder biases [R] as AuxK reads them."""
        return DeadFeatures(numbers, scratch.gather(self.W_enc_rows, numbers), bias, self.W_dec)
