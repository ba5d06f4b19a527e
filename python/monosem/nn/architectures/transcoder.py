"""Transcoder: features of one activation that predict another, such as the input and the output of an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monosem.nn.architectures.chosen import ChosenConfig, ChosenSAE
from monosem.nn.base import LossOutput
from monosem.nn.config import JsonDict, TrainedOn
from monosem.nn.drawing import are_drawn
from monosem.nn.parameters import Declared, Matrix
from monosem.nn.registry import register
from monosem.ops.precision import as_given


@dataclass(frozen=True)
class TranscoderConfig(ChosenConfig):
    """A transcoder.

    Attributes:
        d_out: width of the target; None, which becomes d_in: as wide as the input.
        skip: a linear map from the input to the target beside the features.
        activation, k, …: as in ``ChosenConfig``.
    """

    kind: ClassVar[str] = "transcoder"
    named: ClassVar[tuple[str, ...]] = (*ChosenConfig.named, "skip")
    reconstructs_its_input: ClassVar[bool] = False
    trained_on: ClassVar[TrainedOn] = TrainedOn.PAIR
    d_out: int | None = None  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    skip: bool = False

    @classmethod
    def shape_of(cls, widths: Sequence[int]) -> JsonDict:
        if len(widths) != 2:
            raise cls._other(widths)
        return {"d_in": widths[0], "d_out": widths[1]}

    @property
    def title(self) -> str:
        return f"Transcoder ({self.sparsity_words})"

    @property
    def words(self) -> list[str]:
        return ["skip connection"] if self.skip else []

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_out is None:
            object.__setattr__(self, "d_out", self.d_in)
        if not isinstance(self.d_out, int) or isinstance(self.d_out, bool) or self.d_out < 1:
            raise ValueError(f"d_out: got {self.d_out!r}; wanted a positive integer, or None for d_in={self.d_in}")
        if not isinstance(self.skip, bool):
            raise ValueError(f"skip: got {self.skip!r}; wanted True or False")


@register
class Transcoder(ChosenSAE):
    r"""``f = act(W_enc·x + b_enc)``, ``ŷ = W_dec·f + b_dec [+ W_skip·x]``, ``L = mean_D (y − ŷ)² + …``.

    A training batch is x beside y, [N, d_in + d_out]; ``Trainer`` and ``loss`` also take the pair (x, y). ``encode``
    and ``forward`` take x alone. Nothing is taken off the encoder's input. Rows of the decoder are unit; penalties
    and AuxK are those of the activation (``ChosenConfig``); AuxK explains what is left over of y.

    Parameters beside those of ``SAE``: with ``skip``, ``W_skip`` [d_out, d_in], 0 at first.

    Initialisation: random unit rows, independent in the two matrices, biases 0; ``initialize(batch)`` sets ``b_dec`` to
    the geometric median of y.

    Sources: Dunefsky et al. 2024 (arXiv 2406.11944), with ReLU; with skip and TopK, Paulo et al. 2025
    (arXiv 2501.18823).
    """

    Config = TranscoderConfig
    cfg: TranscoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_out: int | None,
        d_sae: int,
        k: int = 32,
        activation: str = TranscoderConfig.activation,
        skip: bool = False,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        **settings: Any,  # the other fields of the configuration
    ) -> None:
        cfg = TranscoderConfig(d_in, d_sae, k=k, d_out=d_out, activation=activation, skip=skip, **settings)
        super().__init__(cfg, device, dtype)
        self.start_tied(seed)

    def extend(self, device: torch.device | str | None, dtype: torch.dtype) -> None:
        super().extend(device, dtype)
        if self.cfg.skip:
            self.W_skip = nn.Parameter(torch.zeros(len(self.b_dec), self.cfg.d_in, device=device, dtype=dtype))

    def declared(self) -> dict[str, Declared]:
        return super().declared() | ({"W_skip": Matrix()} if self.cfg.skip else {})

    @property
    def is_centred(self) -> bool:
        return False

    @property
    def batch_widths(self) -> tuple[int, ...]:
        return self.cfg.d_in, self.b_dec.shape[0]

    def source(self, x: Tensor) -> Tensor:
        return self.checked(x)[..., : self.cfg.d_in].contiguous()

    def target(self, x: Tensor) -> Tensor:
        """y, less what the skip connection gives."""
        y = self._of_y(x)
        return y - self._skipped(self.source(x)) if self.cfg.skip else y

    @as_given
    def _skipped(self, x: Tensor) -> Tensor:
        """What the skip connection gives for x [..., d_in]."""
        return x @ self.W_skip.T

    def checked(self, x: Tensor) -> Tensor:
        """A training batch. Raises ValueError for another width."""
        width = sum(self.batch_widths)
        if isinstance(x, Tensor) and x.ndim and x.shape[-1] == width:
            return x
        got = f"shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        a, b = self.batch_widths
        raise ValueError(f"x: got {got}; wanted a batch [..., {width}], inputs and targets side by side: {a} + {b}")

    def _of_y(self, x: Tensor) -> Tensor:
        return self.checked(x)[..., self.cfg.d_in :].contiguous()

    @property
    def target_is_input(self) -> bool:
        return False

    @as_given
    def target_gradients(self, x: Tensor, of_reconstruction: Tensor, scale: float) -> dict[str, Tensor]:
        return {"W_skip": (of_reconstruction.T @ self.source(x)).mul_(scale)} if self.cfg.skip else {}

    def reconstructed(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._of_y(x) + residual

    def forward(self, x: Tensor) -> Tensor:
        """ŷ of x [..., d_in]."""
        y = super().forward(x)
        return y + self._skipped(x) if self.cfg.skip else y

    def loss(self, x: Tensor, *settings: Any, **named: Any) -> LossOutput:
        """``loss(batch, sparsity_scale=1.0, dead=None)`` of a batch [..., d_in + d_out], or ``loss(x, y, …)``."""
        if settings and isinstance(settings[0], Tensor):
            x, settings = self.paired(x, settings[0]), settings[1:]
        return super().loss(x, *settings, **named)

    def paired(self, x: Tensor, y: Tensor) -> Tensor:
        """The training batch of x [..., d_in] and y [..., d_out]."""
        if x.shape[:-1] != y.shape[:-1] or (x.shape[-1:], y.shape[-1:]) != ((self.cfg.d_in,), self.b_dec.shape):
            a, b = self.batch_widths
            raise ValueError(
                f"x, y: got shapes {list(x.shape)} and {list(y.shape)}; wanted [..., d_in={a}] and [..., d_out={b}], "
                "with the same tokens"
            )
        return torch.cat([x, y], -1)

    @torch.no_grad()
    def start_tied(self, seed: int | None) -> None:
        """Random unit rows; the two matrices are independent, for they are of different spaces."""
        if not are_drawn():
            return
        generator = None if seed is None else torch.Generator(self.W_dec.device).manual_seed(seed)
        for w in (self.W_dec, self.W_enc_rows):
            nn.init.normal_(w, generator=generator)
            w.div_(w.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny))
