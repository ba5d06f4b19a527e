"""An activation chosen by name, with its settings and parameters, for the kinds that go with any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monosem.nn.activations import AbsTopK, BatchThreshold, BatchTopK, Gated, JumpReLU, ReLU, TopK
from monosem.nn.architectures import thresholds
from monosem.nn.architectures.gated import MAGNITUDES
from monosem.nn.architectures.jumprelu import JumpReLUConfig
from monosem.nn.architectures.topk import aux_of
from monosem.nn.composed import ComposedSAE
from monosem.nn.composition import Composition
from monosem.nn.config import ReLUConfig, TopKConfig, annealed, check_initial_l0, check_number, shown
from monosem.nn.nesting import Nesting
from monosem.nn.parameters import Declared, Vector
from monosem.nn.penalties import L0, L1, GateL1

FIXED = ("topk", "batch_topk", "abs_topk")  # with k active features per token, by themselves or on average
BY_L1 = ("relu", "gated")
# Settings, and the activations with which they have an effect.
EFFECTS = {
    **dict.fromkeys(("k", "aux_k", "aux_coefficient", "aux_every", "initial_k", "k_anneal"), FIXED),
    **dict.fromkeys(("l1_coefficient", "initial_l0"), BY_L1),
    **dict.fromkeys(("l0_coefficient", "target_l0", "bandwidth", "initial_threshold", "threshold_lr"), ("jumprelu",)),
}


@dataclass(frozen=True)
class ChosenConfig(TopKConfig):
    """The settings of an activation that is chosen by name; the others of its fields have no effect.

    Attributes:
        activation: one of ``activations``.
        k: active features per token, with "topk", "batch_topk" and "abs_topk"; aux_k, aux_coefficient, aux_every,
            initial_k, k_anneal: as in ``TopKConfig``.
        l1_coefficient: λ, with "relu" and "gated".
        initial_l0: active features per token at the start, with "relu" and "gated", as in ``ReLUConfig``.
        l0_coefficient, target_l0, bandwidth, initial_bandwidth, bandwidth_anneal, initial_threshold, threshold_lr: with
            "jumprelu", as in ``JumpReLUConfig``.
    """

    activations: ClassVar[tuple[str, ...]] = (*FIXED, "relu", "jumprelu", "gated")
    named: ClassVar[tuple[str, ...]] = (
        *TopKConfig.named,
        "activation",
        "l1_coefficient",
        "l0_coefficient",
        "target_l0",
    )
    from_data: ClassVar[tuple[str, ...]] = JumpReLUConfig.from_data
    activation: str = "topk"
    l1_coefficient: float = ReLUConfig.l1_coefficient
    l0_coefficient: float | str = JumpReLUConfig.l0_coefficient
    target_l0: float | None = None
    bandwidth: float | str = JumpReLUConfig.bandwidth
    initial_bandwidth: float | None = None
    bandwidth_anneal: float = JumpReLUConfig.bandwidth_anneal
    initial_threshold: float | str = JumpReLUConfig.initial_threshold
    threshold_lr: float = JumpReLUConfig.threshold_lr
    initial_l0: float | None = None

    @property
    def uses_k(self) -> bool:
        return self.activation in FIXED

    @property
    def has_penalty(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the class elsewhere
        return self.activation not in FIXED

    @property
    def unmeasured(self) -> tuple[str, ...]:
        return super().unmeasured if self.activation == "jumprelu" else ()

    @property
    def without_effect(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(name for name, activations in EFFECTS.items() if self.activation not in activations)

    @property
    def words(self) -> list[str]:
        return []  # ``sparsity_words`` are in the title

    @property
    def sparsity_words(self) -> str:
        """The activation and the setting that decides how sparse it is, for pages."""
        if self.activation == "jumprelu":
            target = "" if self.target_l0 is None else f", target L0 {self.target_l0:g}"
            return f"{self.activation}, λ = {shown(self.l0_coefficient)}{target}"
        return f"{self.activation}, " + (f"k = {self.k}" if self.uses_k else f"λ = {self.l1_coefficient:g}")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in self.activations:
            raise ValueError(f"activation: got {self.activation!r}; wanted one of {', '.join(self.activations)}")
        check_number("l1_coefficient", self.l1_coefficient, 0)
        check_initial_l0(self.initial_l0, self.d_sae)
        JumpReLUConfig(
            self.d_in,
            self.d_sae,
            l0_coefficient=self.l0_coefficient,
            target_l0=self.target_l0,
            bandwidth=self.bandwidth,
            initial_bandwidth=self.initial_bandwidth,
            bandwidth_anneal=self.bandwidth_anneal,
            initial_threshold=self.initial_threshold,
            threshold_lr=self.threshold_lr,
        )


class ChosenSAE(ComposedSAE):
    """The parameters and parts of the activation that ``cfg.activation`` names."""

    cfg: ChosenConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def declared(self) -> dict[str, Declared]:
        cfg, declared = self.cfg, super().declared()
        if cfg.activation == "jumprelu":
            initial = thresholds.jump(cfg, not self.has_unit_rows).initial_threshold
            threshold = Vector(per_feature=True, lr_factor=cfg.threshold_lr, initial=initial)
            return declared | {"threshold": threshold}
        return declared | MAGNITUDES if cfg.activation == "gated" else declared

    def extend(self, device: torch.device | str | None, dtype: torch.dtype) -> None:
        if self.cfg.activation == "batch_topk":
            self.batches = BatchThreshold(device, dtype)

    def measure(self, sample: Tensor) -> None:
        super().measure(sample)
        thresholds.measure(self, sample)

    @property
    def threshold(self) -> Tensor:
        """What an active feature exceeds: [d_sae] with "jumprelu"; with "batch_topk", at inference, 0-dim."""
        parameter = self._parameters.get("threshold")
        return self.batches.threshold if parameter is None else parameter

    @property
    def composition(self) -> Composition:
        return self.composed(None)

    def composed(self, nesting: Nesting | None) -> Composition:
        """The parts of the activation, with a nesting."""
        cfg = self.cfg
        if cfg.activation == "relu":
            return Composition(ReLU(), penalty=L1(cfg.l1_coefficient), nesting=nesting)
        if cfg.activation == "jumprelu":
            numbers = thresholds.jump(cfg, not self.has_unit_rows)
            bandwidth = annealed(cfg.initial_bandwidth, numbers.bandwidth, self.progress, 0.0, cfg.bandwidth_anneal)
            penalty = L0(numbers.l0_coefficient, bandwidth, cfg.target_l0)
            return Composition(JumpReLU(bandwidth), penalty=penalty, nesting=nesting)
        if cfg.activation == "gated":
            return Composition(Gated(), penalty=GateL1(cfg.l1_coefficient), nesting=nesting)
        k = cfg.k_at(self.progress)
        if cfg.activation == "batch_topk":
            return Composition(BatchTopK(k, self.batches), revival=aux_of(cfg), nesting=nesting)
        chosen = TopK(k) if cfg.activation == "topk" else AbsTopK(k)
        return Composition(chosen, revival=aux_of(cfg), nesting=nesting)
