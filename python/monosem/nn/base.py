"""The base class of all autoencoders: parameters, decode, the unit-norm decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from monosem import ops
from monosem.nn.config import JsonDict, SAEConfig
from monosem.nn.dense_view import DenseView
from monosem.nn.drawing import are_drawn
from monosem.nn.geometric_median import geometric_median
from monosem.nn.gradients import Gradients, Multiplied
from monosem.nn.parameters import Declared, Rows, Vector
from monosem.ops import SparseCode, backend, checks
from monosem.ops.capacity import Capacity
from monosem.ops.memory import check_memory
from monosem.ops.seen import Seen
from monosem.ops.shard import Shard, held
from monosem.ops.step_stats import phase
from monosem.ops.structs import EncoderCopy


@dataclass(frozen=True)
class LossOutput:
    """The loss of a batch and its parts.

    Attributes:
        loss: what to call ``backward()`` on, 0-dim.
        mse: mean squared error over tokens and D, 0-dim.
        sparsity: mean over tokens of Σ|f|, 0-dim; weighted by λ in ``loss`` where the kind has a penalty.
        aux: AuxK loss, 0-dim, before its weight (0 where there is none).
        reconstruction: [..., d_out].
        code: the active features.
    """

    loss: Tensor
    mse: Tensor
    sparsity: Tensor
    aux: Tensor
    reconstruction: Tensor
    code: SparseCode


FREE_NORM = 0.1  # of decoder rows at the start, where norms are free
_SMALL = 64 << 20  # bytes of weights that are allocated without a look at the free memory


class SAE(nn.Module, ABC):
    r"""``f = act(W_enc·(x − b_dec) + b_enc)``, ``x̂ = W_dec·f + b_dec``, rows of the decoder of unit norm.

    Parameters (one row per feature in both matrices, as the kernels read them): ``W_enc_rows`` [d_sae, d_in],
    ``W_dec`` [d_sae, d_in], ``b_enc`` [d_sae], ``b_dec`` [d_in]. ``W_enc`` is the [d_in, d_sae] view of the first.

    ``Trainer`` keeps the decoder's rows unit. A loop of your own with any optimizer has to do so::

        sae.loss(x).loss.backward()
        sae.project_decoder_gradient()
        optimizer.step()
        sae.normalize_decoder()
        optimizer.zero_grad()
    """

    Config: ClassVar[type[SAEConfig]]  # of the class; ``cfg`` is that of the autoencoder
    cfg: SAEConfig
    progress: float = 1.0  # share of the run that is done, by which settings are annealed; ``Trainer`` sets it
    seed_and_step: tuple[int, int] = (0, 0)  # of the run, by which settings of a step are drawn; ``Trainer`` sets them
    frequency: Tensor | None = None  # of ``ops.topk_encode``, during a step of training
    capacity: Capacity  # how a step runs on its device: dense or sparse, and with how much reserved space
    shard: Shard  # which of the features are here: all, unless several processes share them

    def __init__(
        self, cfg: SAEConfig, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.metadata: JsonDict = {}
        self.shard = held()
        features = self.n_held
        self.W_enc_rows = nn.Parameter(torch.empty(features, cfg.d_in, device=device, dtype=dtype))
        self.W_dec = nn.Parameter(torch.empty(features, cfg.d_out, device=device, dtype=dtype))
        _check_fits(self.W_enc_rows, self.W_dec)
        for w in (self.W_enc_rows, self.W_dec):  # before anything is written: their rows are read in no order
            backend.large_pages(w)
        self.b_enc = nn.Parameter(torch.zeros(features, device=device, dtype=dtype))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_out, device=device, dtype=dtype))
        self.capacity = Capacity()
        self._prepared: tuple[EncoderCopy, Seen] | None = None

    @property
    def W_enc(self) -> Tensor:
        """Encoder weights [d_in, d_sae]: a view of ``W_enc_rows``."""
        return self.W_enc_rows.T

    @property
    def n_held(self) -> int:
        """Features whose parameters are here: d_sae, or a shard of them."""
        rows = self.shard.rows(self.cfg.d_sae)
        return rows.stop - rows.start

    @property
    def batch_widths(self) -> tuple[int, ...]:
        """Widths of the tensors that stand side by side in a training batch: here d_in alone."""
        return (self.cfg.d_in,)

    def source(self, x: Tensor) -> Tensor:
        """What the encoder reads of a training batch [..., Σ batch_widths]: here all of it."""
        return x

    def target(self, x: Tensor) -> Tensor:
        """What the decoder is to give for a training batch: here the batch itself."""
        return x

    def settings_now(self) -> Hashable:
        """What a step's operations depend on beside its tensors: one of other settings is no replay of this one."""
        return ()

    @abstractmethod
    def encode(self, x: Tensor) -> SparseCode:
        """The active features of x [..., d_in]."""

    @abstractmethod
    def loss(self, x: Tensor, sparsity_scale: float = 1.0, dead: Tensor | None = None) -> LossOutput:
        """The training loss of x [..., d_in], differentiable.

        Args:
            sparsity_scale: factor on the sparsity penalty (for its warm-up).
            dead: bool [d_sae], features that AuxK may use.
        """

    @torch.no_grad()
    def gradients(
        self,
        x: Tensor,
        sparsity_scale: float = 1.0,
        dead: Tensor | None = None,
        encoder_copy: EncoderCopy | None = None,
    ) -> Gradients:
        """The same loss of x [N, d_in] with its gradients.

        Here they are autograd's, of ``loss``: an autoencoder that has ``encode`` and ``loss`` can be trained. One that
        overrides this computes the same in sparse factors, which is faster.

        Args:
            encoder_copy: the present ``W_enc_rows`` in low precision, for ``ops.topk_encode``.
        """
        parameters = dict(self.named_parameters())
        trained = [name for name, p in parameters.items() if p.requires_grad]
        with torch.enable_grad():
            phase("forward")
            out = self.loss(x, sparsity_scale, dead)
            phase("backward")
            gradients = torch.autograd.grad(out.loss, [parameters[name] for name in trained], allow_unused=True)
        by_name = {name: g for name, g in zip(trained, gradients, strict=True) if g is not None}
        arrays = {
            name: by_name[name].contiguous() if name in by_name else torch.zeros_like(p)
            for name, p in parameters.items()
        }
        phase("statistics")
        return Gradients(
            loss=out.loss.detach(),
            mse=out.mse.detach(),
            sparsity=out.sparsity.detach(),
            aux=out.aux.detach(),
            l0=out.code.l0(),
            fired=out.code.fired(),
            parameters=Multiplied(arrays),
        )

    def declared(self) -> dict[str, Declared]:
        """How each parameter is updated, by name. An autoencoder with further parameters adds them::

        def declared(self):
            return super().declared() | {"theta": Vector(per_feature=True, lr_factor=0.1)}
        """
        return {
            "W_enc_rows": Rows(),
            "W_dec": Rows(unit=self.has_unit_rows),
            "b_enc": Vector(per_feature=True),
            "b_dec": Vector(),
        }

    @property
    def has_unit_rows(self) -> bool:
        """Whether rows of the decoder are kept unit; their norms are free otherwise."""
        return True

    @property
    def is_centred(self) -> bool:
        """Whether b_dec is taken off the encoder's input (``apply_b_dec_to_input`` of SAELens)."""
        return True

    @torch.no_grad()
    def token_losses(self, x: Tensor, sparsity_scale: float = 1.0) -> Tensor:
        """The training loss of each token of x [N, d_in] by itself, float32 [N]; its mean is the loss of the batch.

        Here the squared error alone; a kind with a penalty adds it. AuxK, which is not a loss per token, is left out.
        Resampling draws its inputs by it. The paper does not say whether "the loss" includes the L1 term; it does here,
        because that is the loss being trained.
        """
        return (x - self.forward(x)).float().square().mean(-1)

    @torch.no_grad()
    def restart_features(self, features: Tensor, inputs: Tensor, alive: Tensor, factor: float) -> None:
        """Steps 4 and 5 of the paper's resampling (``ops.resample_``) for these features (int64 [R]).

        A decoder row gets the direction of the target of a row of ``inputs``. Where norms are free, its norm is the
        mean of those alive.
        """
        self.changed()
        source, target = self.source(inputs), self.target(inputs)
        if target is source and self.has_unit_rows and self.shard.is_whole:
            ops.resample_(self.W_enc_rows, self.W_dec, self.b_enc, [], features, inputs, alive, factor)
            return
        norm = 1.0 if self.has_unit_rows else self._mean_norm(self.W_dec, alive, FREE_NORM)
        self.W_enc_rows[features] = _unit(source) * (factor * self._mean_norm(self.W_enc_rows, alive, 1.0))
        self.W_dec[features] = _unit(target) * norm
        self.b_enc[features] = 0.0

    def _mean_norm(self, rows: Tensor, which: Tensor, otherwise: float) -> Tensor | float:
        """Mean norm of the rows marked in ``which`` (bool), if there is one."""
        if self.shard.is_whole:
            return rows[which].norm(dim=-1).mean() if which.any() else otherwise
        norms = rows[which].norm(dim=-1).double()
        total, count = self.shard.sum_features(torch.stack([norms.sum(), which.sum().double()])).tolist()
        return total / count if count else otherwise

    def centred(self, x: Tensor) -> Tensor:
        """The encoder's input: ``x − b_dec``, or x if not ``is_centred``; checks x's type, width, dtype and device."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x: got {type(x).__name__}; wanted a tensor [..., d_in={self.cfg.d_in}]. Convert an array with "
                "torch.from_numpy(x)."
            )
        if x.ndim < 1 or x.shape[-1] != self.cfg.d_in:
            raise ValueError(f"x: got shape {list(x.shape)}; wanted [..., d_in={self.cfg.d_in}]")
        checks.same("x", x, "the autoencoder's weights", self.W_dec)
        return x - self.b_dec if self.is_centred else x

    def some(self, x: Tensor) -> Tensor:
        """``x``; ValueError where it has no row, so that a mean over tokens is defined."""
        if isinstance(x, Tensor) and not x.numel():
            raise ValueError(
                f"x: got no row, shape {list(x.shape)}; wanted [..., d_in={sum(self.batch_widths)}] with at least one"
            )
        return x

    def prepare(self) -> SAE:
        """Keep the encoder's rows as its product reads them, so that ``encode`` of a few tokens is fast.

        Without, every call makes them anew. They take a byte per weight. A training step, an assignment or an in-place
        change of the weights makes them void. A change of ``.data`` does not: call ``changed`` after it.
        """
        if self.prepared() is None:
            copy = ops.encoder_copy(self.W_enc_rows)
            self._prepared = None if copy is None else (copy, Seen(self.W_enc_rows))
        return self

    def prepared(self) -> EncoderCopy | None:
        """What ``prepare`` kept, if the weights are still those."""
        if self._prepared is None or not self._prepared[1].is_still(self.W_enc_rows):
            self._prepared = None
            return None
        return self._prepared[0]

    def changed(self) -> None:
        """The weights were changed in a way that PyTorch does not count: what ``prepare`` kept is void."""
        self._prepared = None

    def decode(self, code: SparseCode) -> Tensor:
        """``x̂ = W_dec·f + b_dec``: [..., d_in], in the leading shape that was encoded."""
        return ops.decode(code, self.W_dec, self.b_dec)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of x [..., d_in]."""
        return self.decode(self.encode(x))

    def dense(self, unit_rows: bool = False) -> DenseView:
        """This autoencoder with the interface that SAELens' users and SAEBench expect: ``encode`` gives [..., d_sae].

        The weights are shared. Of size tokens × features: for tools that need it. ``monosem.export`` writes files that
        SAELens itself loads.

        Args:
            unit_rows: where norms of decoder rows are free, multiply values by them and make the rows unit.

        Raises:
            ValueError: a transcoder or crosscoder.
        """
        return DenseView(self, unit_rows)

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> "SAE":
        """Set the decoder bias to the geometric median of a batch's targets (*Towards Monosemanticity*, appendix)."""
        self.centred(self.source(sample))
        self.b_dec.copy_(geometric_median(self.target(sample).reshape(-1, self.cfg.d_out)))
        self.measure(sample)
        return self

    def measure(self, sample: Tensor) -> None:
        """Set what the configuration leaves to the data, "auto", by a training batch; ``cfg`` has the numbers then."""

    @torch.no_grad()
    def start_tied(self, seed: int | None) -> None:
        """Random unit decoder rows, and encoder rows equal to them (Gao et al. 2024, section 2.4).

        Where norms are free, rows of norm 0.1 (Anthropic, April 2024).
        """
        if not are_drawn():
            return
        generator = None if seed is None else torch.Generator(self.W_dec.device).manual_seed(seed)
        nn.init.normal_(self.W_dec, generator=generator)
        self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(self.W_dec.dtype).tiny))
        if not self.has_unit_rows:
            self.W_dec.mul_(FREE_NORM)
        self.W_enc_rows.copy_(self.W_dec)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Make every decoder row unit, where they are to be (``has_unit_rows``)."""
        if not self.has_unit_rows:
            return
        self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(self.W_dec.dtype).tiny))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from ``W_dec.grad`` the part parallel to each (unit) decoder row, before the optimizer's step."""
        if self.has_unit_rows and self.W_dec.grad is not None:
            g, w = self.W_dec.grad, self.W_dec
            g.sub_((g * w).sum(-1, keepdim=True) * w)

    def extra_repr(self) -> str:
        return repr(self.cfg)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def _check_fits(*weights: Tensor) -> None:
    """Refuse weights that the memory cannot hold, once they have addresses but before anything is written to them.

    A system that finds out later ends the process.
    """
    size = sum(w.numel() * w.element_size() for w in weights if w.device.type == "cpu")
    if size > _SMALL:
        check_memory(size, f"weights of {len(weights[0]):,} features", "d_sae")
