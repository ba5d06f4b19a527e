"""JumpReLU: a threshold per feature, learnt by straight-through gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monosem.nn.activations import JumpReLU
from monosem.nn.architectures import thresholds
from monosem.nn.composed import ComposedSAE
from monosem.nn.composition import Composition
from monosem.nn.config import AUTO, DecoderNorm, SAEConfig, annealed, check_number, check_share, shown
from monosem.nn.parameters import Declared, Vector
from monosem.nn.penalties import L0, PreActivation, Tanh
from monosem.nn.registry import register

FORMS = ("l0", "tanh")


@dataclass(frozen=True)
class JumpReLUConfig(SAEConfig):
    """A JumpReLU autoencoder.

    Attributes:
        l0_coefficient: λ of the penalty. The squared error is a mean over D, L0 a sum over features. "auto": 0.007 of
            the mean square of the activations about b_dec, or 0.7 of it with a target.
        target_l0: form "l0" only: the penalty becomes ``λ·(L0/target − 1)²``; None: ``λ·L0``.
        bandwidth: ε of the straight-through derivative. "auto": 0.26 standard deviations of h at the start.
        initial_bandwidth: ε at the start of a run of ``Trainer``; None: ``bandwidth`` throughout.
        bandwidth_anneal: share of the run over which it goes linearly from ``initial_bandwidth`` to ``bandwidth``.
        initial_threshold: θ at the start. "auto": 1.3 standard deviations of h. Settings that are "auto" become numbers
            with the first batch (``initialize``, ``Trainer``); until then they are those of inputs of mean square 1.
        threshold_lr: learning rate of θ, as a factor on that of the run.
        form: "l0" (Rajamanoharan et al. 2024) or "tanh" (Anthropic, January 2025): ``λ·Σ tanh(4·f·‖W_dec‖)``, with the
            derivative in the pre-activation too, and the penalty of pre-activations below their threshold.
        pre_activation_coefficient: λ_P of that penalty, in form "tanh".
        decoder_norm: "unit" or "free"; with "free", b_dec is not taken off the encoder's input.
    """

    kind: ClassVar[str] = "jumprelu"
    named: ClassVar[tuple[str, ...]] = (*SAEConfig.named, "form", "l0_coefficient", "target_l0", "decoder_norm")
    from_data: ClassVar[tuple[str, ...]] = ("l0_coefficient", "bandwidth", "initial_threshold")
    l0_coefficient: float | str = AUTO
    target_l0: float | None = None
    bandwidth: float | str = AUTO
    initial_bandwidth: float | None = None
    bandwidth_anneal: float = 0.5
    initial_threshold: float | str = AUTO
    threshold_lr: float = 1.0
    form: str = "l0"
    pre_activation_coefficient: float = 3e-6
    decoder_norm: str = DecoderNorm.UNIT.value

    @property
    def without_effect(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return () if self.form == "tanh" else ("pre_activation_coefficient",)

    @property
    def sparsity_warmup(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Anthropic's rises over the whole run; Gemma Scope's over 10,000 steps of many more."""
        return 1.0 if self.form == "tanh" else SAEConfig.sparsity_warmup

    @property
    def title(self) -> str:
        return f"JumpReLU ({self.form})"

    @property
    def words(self) -> list[str]:
        words = [f"λ = {shown(self.l0_coefficient)}"]
        if self.target_l0 is not None:
            words.append(f"target L0 {self.target_l0:g}")
        return words if self.decoder_norm == DecoderNorm.UNIT else [*words, "free norms"]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "decoder_norm", DecoderNorm.named(self.decoder_norm))
        if self.form not in FORMS:
            raise ValueError(f"form: got {self.form!r}; wanted one of {', '.join(FORMS)}")
        thresholds.check(self)
        for name in ("threshold_lr", "pre_activation_coefficient"):
            check_number(name, getattr(self, name), 0)
        if self.initial_bandwidth is not None:
            check_number("initial_bandwidth", self.initial_bandwidth, 0, above=True)
        check_share("bandwidth_anneal", self.bandwidth_anneal)
        if self.target_l0 is not None:
            check_number("target_l0", self.target_l0, 0, above=True)
            if self.target_l0 > self.d_sae:
                raise ValueError(f"target_l0: got {self.target_l0}; wanted at most d_sae={self.d_sae}")
            if self.form != "l0":
                raise ValueError(f"target_l0: got {self.target_l0} with form={self.form!r}; wanted None, or form='l0'")


@register
class JumpReLUSAE(ComposedSAE):
    r"""``f = h·H(h − θ)``, ``h = W_enc·(x − b_dec) + b_enc``; ``L = mean_D (x − x̂)² + λ·L0``, θ ≥ 0 per feature.

    θ, a parameter ``threshold`` [d_sae], learns by straight-through derivatives within a band ±ε/2 around it; it is θ
    itself, not its logarithm, and has a learning rate of its own. See ``JumpReLUConfig`` for Anthropic's form.

    Initialisation: encoder equal to the decoder (random rows, unit, or of norm 0.1 where norms are free), biases 0.

    Sources: Rajamanoharan et al. 2024 (arXiv 2407.14435); Anthropic, *Circuits Updates*, January 2025.
    """

    Config = JumpReLUConfig
    cfg: JumpReLUConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l0_coefficient: float | str = JumpReLUConfig.l0_coefficient,
        target_l0: float | None = None,
        bandwidth: float | str = JumpReLUConfig.bandwidth,
        initial_threshold: float | str = JumpReLUConfig.initial_threshold,
        threshold_lr: float = JumpReLUConfig.threshold_lr,
        form: str = JumpReLUConfig.form,
        pre_activation_coefficient: float = JumpReLUConfig.pre_activation_coefficient,
        decoder_norm: str = JumpReLUConfig.decoder_norm,
        *,
        initial_bandwidth: float | None = None,
        bandwidth_anneal: float = JumpReLUConfig.bandwidth_anneal,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        cfg = JumpReLUConfig(
            d_in,
            d_sae,
            l0_coefficient=l0_coefficient,
            target_l0=target_l0,
            bandwidth=bandwidth,
            initial_bandwidth=initial_bandwidth,
            bandwidth_anneal=bandwidth_anneal,
            initial_threshold=initial_threshold,
            threshold_lr=threshold_lr,
            form=form,
            pre_activation_coefficient=pre_activation_coefficient,
            decoder_norm=decoder_norm,
        )
        super().__init__(cfg, device, dtype)
        self.start_tied(seed)

    @property
    def has_unit_rows(self) -> bool:
        return self.cfg.decoder_norm == DecoderNorm.UNIT

    @property
    def is_centred(self) -> bool:
        return self.has_unit_rows

    def declared(self) -> dict[str, Declared]:
        initial = thresholds.jump(self.cfg, not self.has_unit_rows).initial_threshold
        threshold = Vector(per_feature=True, lr_factor=self.cfg.threshold_lr, initial=initial)
        return super().declared() | {"threshold": threshold}

    def measure(self, sample: Tensor) -> None:
        thresholds.measure(self, sample)

    @property
    def composition(self) -> Composition:
        cfg, numbers = self.cfg, thresholds.jump(self.cfg, not self.has_unit_rows)
        bandwidth = annealed(cfg.initial_bandwidth, numbers.bandwidth, self.progress, 0.0, cfg.bandwidth_anneal)
        activation = JumpReLU(bandwidth, through_input=cfg.form == "tanh")
        if cfg.form == "l0":
            return Composition(activation, penalty=L0(numbers.l0_coefficient, bandwidth, cfg.target_l0))
        inactive = PreActivation(cfg.pre_activation_coefficient) if cfg.pre_activation_coefficient else None
        return Composition(activation, penalty=Tanh(numbers.l0_coefficient), pre_activation=inactive)
